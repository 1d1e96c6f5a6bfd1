"""Money that moves by a person's word: two more accounts, and customers who pay afterwards.

Revision ID: 0022
Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_ACCOUNTS = """
alter table accounts add column credit_limit_micro bigint default 0 not null,
  drop constraint ck_accounts_kind,
  add constraint ck_accounts_kind
    check (kind in ('wallet', 'holds', 'revenue', 'funding', 'promotions', 'adjustments')),
  drop constraint ck_accounts_never_negative,
  add constraint ck_accounts_never_negative
    check (kind not in ('wallet', 'holds') or balance_micro + credit_limit_micro >= 0),
  add constraint ck_accounts_paid_in check (kind <> 'funding' or balance_micro <= 0),
  add constraint ck_accounts_credit_limit
    check (credit_limit_micro >= 0 and (kind = 'wallet' or credit_limit_micro = 0));
"""
# The scheduler is told of what can be spent, which the limit is a part of.
_NOTE_CREDIT = """
drop trigger note_update on accounts;
create trigger note_update after update on accounts for each row
  when (new.kind = 'wallet' and (new.balance_micro, new.credit_limit_micro)
    is distinct from (old.balance_micro, old.credit_limit_micro))
  execute function note_wallet();
"""


def upgrade() -> None:
    op.execute(_ACCOUNTS)
    op.execute(_NOTE_CREDIT)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
