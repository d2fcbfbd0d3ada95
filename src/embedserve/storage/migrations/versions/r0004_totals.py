"""A total per key beside the sums by day, the pause of a key, and marks that say what changed lately."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("paused_at", sa.Float))
    op.add_column(
        "api_keys", sa.Column("changed", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    op.create_index("ix_api_keys_changed", "api_keys", ["changed"])
    op.create_table(
        "key_totals",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("door", sa.String(8), primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        comment="Sums of usage_daily, written in the same transaction; version counts the changes of a row, "
        "changed finds the rows that changed lately",
    )
    op.create_index("ix_key_totals_changed", "key_totals", ["changed"])
    op.execute(
        "INSERT INTO key_totals (key_id, model, door, tokens, version, changed) "
        "SELECT key_id, model, door, CAST(SUM(tokens) AS BIGINT), 1, 0 FROM usage_daily "
        "GROUP BY key_id, model, door"
    )


def downgrade() -> None:
    op.drop_table("key_totals")
    op.drop_index("ix_api_keys_changed", "api_keys")
    for name in ("changed", "paused_at"):
        op.drop_column("api_keys", name)
