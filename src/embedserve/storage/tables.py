"""The tables, as SQLAlchemy Core sees them. Migrations create them; a test holds that both agree."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Date, Float, Index, Integer, MetaData, String, Table
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
    comment="Digests only: a secret is shown once and never stored",
)

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

free_quota = Table(
    "free_quota",
    metadata,
    Column("model", String(100), primary_key=True),
    Column("first_used_at", Float, nullable=False),
    comment="When the validity of a model's free tokens began",
)
