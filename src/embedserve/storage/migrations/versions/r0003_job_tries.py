"""Tries of a job, the room its fetched input takes, and whose turn it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns are added, never a table made anew: on SQLite its removal would take the chunks with it.
    for column in (
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("not_before", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("input_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("fetched_at", sa.Float),
        sa.Column("callback_at", sa.Float, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("jobs", column)
    attempts = sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0"))
    op.add_column("job_chunks", attempts)
    op.create_table(
        "job_turns",
        sa.Column("workspace", sa.String(64), primary_key=True),
        sa.Column("checked_at", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("served_at", sa.Float, nullable=False, server_default=sa.text("0")),
        comment="When a workspace last had its turn: whose jobs have waited longest comes next",
    )


def downgrade() -> None:
    op.drop_table("job_turns")
    op.drop_column("job_chunks", "attempts")
    for name in ("callback_at", "fetched_at", "input_bytes", "not_before", "attempts"):
        op.drop_column("jobs", name)
