"""Settings that will not do end the start in one sentence: variable or option, value, remedy, no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from embedserve.configuration import read_settings, variable
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings

SECRET = "hunter2-hunter2-hunter2"
V4 = "text-embedding-v4"

WRONG = [
    ("EMBEDSERVE_HOST", "no such host", "a name of this machine"),
    ("EMBEDSERVE_HOST", "name.that.does.not.resolve.invalid", "no address is known"),
    ("EMBEDSERVE_HOST", "a" * 70, "no address is known"),
    ("EMBEDSERVE_HOST", "192.0.2.1", "no address of this machine"),
    ("EMBEDSERVE_PORT", "http", "whole number"),
    ("EMBEDSERVE_PORT", "70000", "65535"),
    ("EMBEDSERVE_PORT", "-1", "greater than or equal to 0"),
    ("EMBEDSERVE_LIMITS", "loose", "'strict' or 'lenient'"),
    ("EMBEDSERVE_LENIENT_MAX_ROWS", "0", "1"),
    ("EMBEDSERVE_MAX_BODY_BYTES", "1e99", "whole number"),
    ("EMBEDSERVE_MAX_FILE_MB", "99999999999999", "at most"),
    ("EMBEDSERVE_API_KEY", f"{SECRET} \u00e9", "printable ASCII"),
    ("DASHSCOPE_API_KEY", f"{SECRET} x", "printable ASCII"),
    ("EMBEDSERVE_ADMIN_KEY", "hunter2", "16"),
    ("EMBEDSERVE_METRICS_TOKEN", "hunter2", "16"),
    ("EMBEDSERVE_PLAN", "/nowhere/plan.toml", "/nowhere/plan.toml"),
    ("EMBEDSERVE_DATABASE_URL", f"mysql://me:{SECRET}@localhost/x", "postgresql://"),
    ("EMBEDSERVE_DATABASE_URL", f"postgresql://me:{SECRET}@localhost:port/x", "postgresql://"),
    ("EMBEDSERVE_DATABASE_URL", f"postgresql://me:{SECRET}@127.0.0.1:1/x", "EMBEDSERVE_DATABASE_URL"),
    ("EMBEDSERVE_DATABASE_URL", f"postgresql://127.0.0.1:1/x?password={SECRET}", "EMBEDSERVE_DATABASE_URL"),
    ("EMBEDSERVE_DATABASE_URL", f"postgresql:///x?host=a&host=b&port=1&password={SECRET}", "postgresql://"),
    ("EMBEDSERVE_DATABASE_URL", "sqlite://", "sqlite:///path"),
    ("EMBEDSERVE_DATABASE_URL", "sqlite:///:memory:", "sqlite:///path"),
    ("EMBEDSERVE_DATABASE_URL", "sqlite://host/x", "sqlite:///path"),
    ("EMBEDSERVE_DATABASE_URL", "sqlite:////tmp/x?mode=no&timeout=soon", "sqlite:///path"),
    ("EMBEDSERVE_DATABASE_TIMEOUT", "inf", "finite"),
    ("EMBEDSERVE_DATABASE_TIMEOUT", "nan", "finite"),
    ("EMBEDSERVE_DATABASE_TIMEOUT", "0", "greater than 0"),
    ("EMBEDSERVE_DATABASE_SYNC", "maybe", "'normal' or 'full'"),
    ("EMBEDSERVE_REDIS_URL", f"http://:{SECRET}@localhost", "redis://"),
    ("EMBEDSERVE_REDIS_TIMEOUT", "-inf", "finite"),
    ("EMBEDSERVE_LEDGER_DAYS", "nan", "finite"),
    ("EMBEDSERVE_RECIPE", "magic", "'ladder' or 'plain'"),
    ("EMBEDSERVE_WEIGHTS", "/nowhere/weights", "/nowhere/weights"),
    ("EMBEDSERVE_ISA", "z80", "'avx2'"),
    ("EMBEDSERVE_MODELS", "{", "no JSON"),
    ("EMBEDSERVE_MODELS", "[" * 50_000, "no JSON"),
    ("EMBEDSERVE_MODELS", "[1]", "dictionary"),
    ("EMBEDSERVE_MODELS", '{"text-embedding-v9": "x"}', "text-embedding-v4"),
    ("EMBEDSERVE_MODELS", f'{{"{V4}": "/nope"}}', "/nope"),
    ("EMBEDSERVE_MODELS", f'{{"{V4}": "never/pulled"}}', "models pull"),
    ("EMBEDSERVE_MODELS", f'{{"{V4}": "https://me:{SECRET}@[/v1#x"}}', "https://host/v1#"),
    ("EMBEDSERVE_MODELS", f'{{"{V4}": "https://me:{SECRET}@host/v1"}}', "MODEL-NAME"),
    ("EMBEDSERVE_MODEL_MEMORY_MB", "1", "64"),
    ("EMBEDSERVE_DEVICE", "tpu", "cuda:N"),
    ("EMBEDSERVE_PRECISION", "fp4", "'int8'"),
    ("EMBEDSERVE_THREADS", "100000", "1024"),
    ("EMBEDSERVE_MEMORY_LIMIT_MB", "8", "64"),
    ("EMBEDSERVE_CACHE_MB", "-5", "0"),
    ("EMBEDSERVE_GZIP", "perhaps", "boolean"),
    ("EMBEDSERVE_LOG_LEVEL", "chatty", "'debug'"),
    ("EMBEDSERVE_LOG_FORMAT", "xml", "'json'"),
    ("EMBEDSERVE_FILES_DIR", "/proc/nowhere", "EMBEDSERVE_FILES_DIR"),
    ("EMBEDSERVE_DATA_DIR", "/proc/nowhere", "EMBEDSERVE_DATA_DIR"),
    ("EMBEDSERVE_DATA_DIR", __file__, "EMBEDSERVE_DATA_DIR"),
    ("EMBEDSERVE_URL_HOSTS", "http://x", "name:port"),
    ("EMBEDSERVE_URL_HOSTS", "x:99999", "name:port"),
    ("EMBEDSERVE_URL_HOSTS", "*.[::1]", "name:port"),
    ("EMBEDSERVE_CALLBACK_HOSTS", "a b", "name:port"),
    ("EMBEDSERVE_CALLBACK_HOSTS", "a..b", "name:port"),
    ("EMBEDSERVE_CALLBACK_HOSTS", "a" * 64 + ".example", "name:port"),
    ("EMBEDSERVE_URL_NETWORKS", "abc", "10.1.0.0/16"),
    ("EMBEDSERVE_PUBLIC_URL", "http://[", "https://"),
    ("EMBEDSERVE_PUBLIC_URL", "http://a\\b", "https://"),
    ("EMBEDSERVE_PUBLIC_URL", 'https://x.example/a"<b>', "https://"),
    ("EMBEDSERVE_PUBLIC_URL", f"https://me:{SECRET}@x.example", "https://"),
    ("EMBEDSERVE_PROT", "1", "did you mean EMBEDSERVE_PORT?"),
    ("EMBEDSERVE_APIKEY", SECRET, "did you mean EMBEDSERVE_API_KEY?"),
]
OPTIONS = [
    ("--port", "http"),
    ("--limits", "loose"),
    ("--threads", "100000"),
    ("--database-url", f"mysql://me:{SECRET}@x/y"),
    ("--redis-url", f"nonsense-{SECRET}"),
    ("--model", "text-embedding-v4"),
    ("--model", f"{V4}=/nope"),
    ("--device", "tpu"),
    ("--host", ""),
    ("--log-level", "chatty"),
    ("--data-dir", "/proc/nowhere"),
]


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDSERVE_")}
    variables.pop("DASHSCOPE_API_KEY", None)
    return subprocess.run(
        [sys.executable, "-m", "embedserve", "serve", *arguments],
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def check(done: subprocess.CompletedProcess[str]) -> str:
    """One line, whatever it is that is wrong."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("embedserve: ")
    assert "hunter2" not in done.stdout + done.stderr
    return lines[0]


@pytest.mark.parametrize(("name", "value", "remedy"), WRONG)
def test_a_variable_that_will_not_do(name: str, value: str, remedy: str, tmp_path: Path) -> None:
    told = check(start(**{"EMBEDSERVE_DATA_DIR": str(tmp_path), "EMBEDSERVE_PORT": "0", name: value}))
    assert remedy in told
    assert name in told or name.endswith(("HOST", "PLAN", "WEIGHTS")), told


@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_an_option_that_will_not_do(option: str, value: str, tmp_path: Path) -> None:
    done = start("--data-dir", str(tmp_path), "--port", "0", option, value)
    if option == "--port":  # the command line's own word
        assert done.returncode == 2
        return
    assert option in check(done)


def numbers() -> list[str]:
    return [
        name
        for name, field in Settings.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    ]


@pytest.mark.parametrize("name", numbers())
@pytest.mark.parametrize("value", ["abc", "inf", "nan", "-1", "1e300", "9" * 40, "1 2"])
def test_no_number_is_taken_for_what_it_is_not(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(EmbedserveError, match=variable(name)):
        read_settings()


@pytest.mark.parametrize(
    "content",
    [
        b"[models\n",
        b"\xff\xfe",
        b"models = 3\n",
        b'[models]\n"text-embedding-v4" = 3\n',
        b'[models]\n"text-embedding-v9" = "x"\n',
        b'[models]\n"text-embedding-v4" = "/nope"\n',
    ],
)
def test_a_table_of_models_that_will_not_do(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_bytes(content)
    assert "models.toml" in check(start(EMBEDSERVE_DATA_DIR=str(tmp_path), EMBEDSERVE_PORT="0"))


def test_a_plan_that_is_not_utf8(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_bytes(b'currency = "\xff"\n')
    told = check(start(EMBEDSERVE_DATA_DIR=str(tmp_path), EMBEDSERVE_PORT="0", EMBEDSERVE_PLAN=str(plan)))
    assert str(plan) in told


@pytest.mark.parametrize(
    "command", [("embed", "-"), ("batch", "status"), ("eval", "."), ("keys", "list"), ("doctor",)]
)
def test_no_command_passes_over_a_variable_that_does_not_exist(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embedserve", *command],
        env={**os.environ, "EMBEDSERVE_ULR": "http://x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "EMBEDSERVE_ULR is no setting: did you mean EMBEDSERVE_URL?" in done.stderr
