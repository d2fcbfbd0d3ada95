"""Keys, the ledger and the beginning of free quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("old_digest", sa.String(64), unique=True),
        sa.Column("old_until", sa.Float),
        sa.Column("models", sa.String(4000)),
        sa.Column("rpm", sa.Integer),
        sa.Column("tpm", sa.BigInteger),
        sa.Column("budget", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
        comment="Digests only: a secret is shown once and never stored",
    )
    op.create_table(
        "stamps",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        comment="Counters that tell other processes that something has changed",
    )
    op.create_table(
        "usage_requests",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False, unique=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("door", sa.String(8), nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        comment="One row an answered request; its unique id keeps a repeated commit from counting twice",
    )
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("door", sa.String(8), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        comment="Sums of usage_requests, written in the same transaction and kept for good",
    )
    op.create_index("ix_usage_daily_model", "usage_daily", ["model", "day"])
    op.create_table(
        "free_quota",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("first_used_at", sa.Float, nullable=False),
        comment="When the validity of a model's free tokens began",
    )


def downgrade() -> None:
    for name in ("free_quota", "usage_daily", "usage_requests", "stamps", "api_keys"):
        op.drop_table(name)
