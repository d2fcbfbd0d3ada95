"""Files, jobs and their chunks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("job_id", sa.String(64)),
        sa.Column("suffix", sa.String(16)),
        comment="Uploads (one file on disk), and outputs (parts with this suffix in the folder of the job)",
    )
    op.create_index("ix_files_workspace", "files", ["workspace", "created_at"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(100), nullable=False, server_default=""),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("input_file_id", sa.String(64)),
        sa.Column("input_url", sa.String(4096)),
        sa.Column("options", sa.Text, nullable=False, server_default="{}"),
        sa.Column("metadata", sa.Text),
        sa.Column("title", sa.String(100), nullable=False, server_default=""),
        sa.Column("callback", sa.String(4096)),
        sa.Column("window", sa.String(8), nullable=False, server_default=""),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("in_progress_at", sa.Float),
        sa.Column("finalizing_at", sa.Float),
        sa.Column("cancelling_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("errors", sa.Text),
        sa.Column("total", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("completed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("output_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("error_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("chunks_left", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("served_at", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("output_file_id", sa.String(64)),
        sa.Column("error_file_id", sa.String(64)),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.Float),
        comment="Batches and asynchronous tasks; a worker leases one to check it, then its chunks to run",
    )
    op.create_index("ix_jobs_workspace", "jobs", ["workspace", "created_at"])
    op.create_index("ix_jobs_status", "jobs", ["status", "served_at"])
    op.create_table(
        "job_chunks",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_line", sa.Integer, nullable=False),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("output_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("error_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.Float),
        comment="Consecutive lines of a job's input; done is set in the transaction that bills them",
    )
    op.create_index("ix_job_chunks_open", "job_chunks", ["job_id", "done", "number"])


def downgrade() -> None:
    for name in ("job_chunks", "jobs", "files"):
        op.drop_table(name)
