"""Where the output of elements' earlier tries is.

Revision ID: 0022
Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_TABLE = """
create table task_element_tries (
  id bigserial,
  task_id bigint not null,
  index integer not null,
  attempt_id bigint not null,
  place integer not null,
  log_from bigint not null,
  log_to bigint,
  constraint pk_task_element_tries primary key (id),
  constraint fk_task_element_tries_task_id foreign key (task_id) references tasks (id),
  constraint fk_task_element_tries_attempt_id foreign key (attempt_id) references task_attempts (id)
);
create index ix_task_element_tries_element on task_element_tries (task_id, index, id);
"""


def upgrade() -> None:
    op.execute(_TABLE)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
