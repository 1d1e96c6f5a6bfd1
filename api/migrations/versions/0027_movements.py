"""Money that moves by a person's word, credit and promotions, warnings of the end, and the check of the books.

Revision ID: 0027
Revises: 0026
"""

from alembic import op

revision = "0027"
down_revision = "0026"
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
# Whoever has the other four has these two: made later, they would be made behind locks that come after them.
_NEW_ACCOUNTS = """
insert into accounts (uid, customer_id, kind, currency)
  select gen_random_uuid(), customer_id, kind, currency
  from (select distinct customer_id, currency from accounts) owners
  cross join (values ('promotions'), ('adjustments')) kinds (kind);
"""
# The scheduler is told of what can be spent, which the limit is a part of.
_NOTE_CREDIT = """
drop trigger note_update on accounts;
create trigger note_update after update on accounts for each row
  when (new.kind = 'wallet' and (new.balance_micro, new.credit_limit_micro)
    is distinct from (old.balance_micro, old.credit_limit_micro))
  execute function note_wallet();
"""
_PROMOTIONS = """
create table promotions (
  id bigserial not null,
  uid uuid not null,
  customer_id bigint not null,
  currency varchar not null,
  amount_micro bigint not null,
  left_micro bigint not null,
  revenue_seen_micro bigint not null,
  note varchar default '' not null,
  granted_at timestamptz default now() not null,
  expires_at timestamptz not null,
  looked_at timestamptz default now() not null,
  closed_at timestamptz,
  constraint pk_promotions primary key (id),
  constraint uq_promotions_uid unique (uid),
  constraint ck_promotions_left check (left_micro >= 0 and left_micro <= amount_micro),
  constraint ck_promotions_closed check (closed_at is null or left_micro = 0),
  constraint fk_promotions_customer_id foreign key (customer_id) references customers (id)
);
create index ix_promotions_customer on promotions (customer_id, id);
create index ix_promotions_open on promotions (customer_id, currency, expires_at) where closed_at is null;
create index ix_promotions_due on promotions (expires_at) where closed_at is null;
"""
_WARNINGS = """
alter table customers add column warn_before_s integer[] default '{}' not null;
create table balance_warnings (
  id bigserial not null,
  uid uuid not null,
  customer_id bigint not null,
  threshold_s integer not null,
  raised_at timestamptz not null,
  runs_out_at timestamptz not null,
  cleared_at timestamptz,
  constraint pk_balance_warnings primary key (id),
  constraint uq_balance_warnings_uid unique (uid),
  constraint fk_balance_warnings_customer_id foreign key (customer_id) references customers (id)
);
create unique index uq_balance_warnings_spell on balance_warnings (customer_id, threshold_s) where cleared_at is null;
create index ix_balance_warnings_customer on balance_warnings (customer_id, id);
"""
_CHECKS = """
create table account_checks (
  account_id bigint not null,
  posting_id bigint not null,
  balance_micro bigint not null,
  constraint pk_account_checks primary key (account_id),
  constraint fk_account_checks_account_id foreign key (account_id) references accounts (id)
);
create index ix_postings_account on postings (account_id, id);
drop index ix_postings_account_id;
"""


def upgrade() -> None:
    for statements in (_ACCOUNTS, _NEW_ACCOUNTS, _NOTE_CREDIT, _PROMOTIONS, _WARNINGS, _CHECKS):
        op.execute(statements)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
