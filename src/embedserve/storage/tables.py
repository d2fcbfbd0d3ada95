"""The tables, as SQLAlchemy Core sees them. Migrations create them; a test holds that both agree."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy import text as sql

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in a column declared INTEGER PRIMARY KEY."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("workspace", String(64), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("old_digest", String(64), unique=True),
    Column("old_until", Float),
    Column("models", String(4000)),
    Column("rpm", Integer),
    Column("tpm", BigInteger),
    Column("budget", Float),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("paused_at", Float),
    Column("changed", BigInteger, nullable=False, server_default=sql("0")),
    comment="Digests only: a secret is shown once and never stored",
)

api_keys_by_change = Index("ix_api_keys_changed", api_keys.c.changed)

stamps = Table(
    "stamps",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
    comment="Counters that tell other processes that something has changed",
)

usage_requests = Table(
    "usage_requests",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("at", Float, nullable=False),
    Column("day", Date, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("workspace", String(64), nullable=False),
    Column("model", String(100), nullable=False),
    Column("door", String(8), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    comment="One row an answered request; its unique id keeps a repeated commit from counting twice",
)

usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", Date, primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("workspace", String(64), primary_key=True),
    Column("model", String(100), primary_key=True),
    Column("door", String(8), primary_key=True),
    Column("requests", BigInteger, nullable=False, server_default=sql("0")),
    Column("tokens", BigInteger, nullable=False, server_default=sql("0")),
    comment="Sums of usage_requests, written in the same transaction and kept for good",
)

usage_daily_by_model = Index("ix_usage_daily_model", usage_daily.c.model, usage_daily.c.day)

key_totals = Table(
    "key_totals",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("model", String(100), primary_key=True),
    Column("door", String(8), primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    comment="Sums of usage_daily, written in the same transaction; version counts the changes of a row, "
    "changed finds the rows that changed lately",
)

key_totals_by_change = Index("ix_key_totals_changed", key_totals.c.changed)

free_quota = Table(
    "free_quota",
    metadata,
    Column("model", String(100), primary_key=True),
    Column("first_used_at", Float, nullable=False),
    comment="When the validity of a model's free tokens began",
)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("workspace", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(512), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("job_id", String(64)),
    Column("suffix", String(16)),
    comment="Uploads (one file on disk), and outputs (parts with this suffix in the folder of the job)",
)

files_by_workspace = Index("ix_files_workspace", files.c.workspace, files.c.created_at)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("workspace", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("model", String(100), nullable=False, server_default=""),
    Column("endpoint", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("input_file_id", String(64)),
    Column("input_url", String(4096)),
    Column("options", Text, nullable=False, server_default="{}"),
    Column("metadata", Text),
    Column("title", String(100), nullable=False, server_default=""),
    Column("callback", String(4096)),
    Column("window", String(8), nullable=False, server_default=""),
    Column("deadline", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("in_progress_at", Float),
    Column("finalizing_at", Float),
    Column("cancelling_at", Float),
    Column("ended_at", Float),
    Column("errors", Text),
    Column("total", Integer, nullable=False, server_default=sql("0")),
    Column("completed", Integer, nullable=False, server_default=sql("0")),
    Column("failed", Integer, nullable=False, server_default=sql("0")),
    Column("tokens", BigInteger, nullable=False, server_default=sql("0")),
    Column("output_bytes", BigInteger, nullable=False, server_default=sql("0")),
    Column("error_bytes", BigInteger, nullable=False, server_default=sql("0")),
    Column("chunks_left", Integer, nullable=False, server_default=sql("0")),
    Column("served_at", Float, nullable=False, server_default=sql("0")),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    Column("not_before", Float, nullable=False, server_default=sql("0")),
    Column("input_bytes", BigInteger, nullable=False, server_default=sql("0")),
    Column("fetched_at", Float),
    Column("callback_at", Float, nullable=False, server_default=sql("0")),
    comment="Batches and asynchronous tasks; a worker leases one to check it, then its chunks to run",
)

jobs_by_workspace = Index("ix_jobs_workspace", jobs.c.workspace, jobs.c.created_at)
jobs_by_status = Index("ix_jobs_status", jobs.c.status, jobs.c.served_at)

job_chunks = Table(
    "job_chunks",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("first_line", Integer, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("done", Boolean, nullable=False, server_default=sql("false")),
    Column("output_bytes", BigInteger, nullable=False, server_default=sql("0")),
    Column("error_bytes", BigInteger, nullable=False, server_default=sql("0")),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    comment="Consecutive lines of a job's input; done is set in the transaction that bills them",
)

open_chunks = Index("ix_job_chunks_open", job_chunks.c.job_id, job_chunks.c.done, job_chunks.c.number)

job_turns = Table(
    "job_turns",
    metadata,
    Column("workspace", String(64), primary_key=True),
    Column("checked_at", Float, nullable=False, server_default=sql("0")),
    Column("served_at", Float, nullable=False, server_default=sql("0")),
    comment="When a workspace last had its turn: whose jobs have waited longest comes next",
)
