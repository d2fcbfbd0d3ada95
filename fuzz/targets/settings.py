"""Environments and plans: settings, or a sentence that names what is wrong and shows no secret."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from embedserve.accounts.plan import Plan
from embedserve.configuration import read_settings, variable
from embedserve.errors import EmbedserveError
from embedserve.http.front.limits import Limits
from embedserve.settings import Settings

NAMES = [variable(name) for name in sorted(Settings.model_fields)]
SECRET = "hunter2-hunter2-hunter2"
VALUES = (
    b"1",
    b"x",
    b"-1",
    b"1e999",
    b"{",
    b"a,b\n",
    b"postgresql://u:" + SECRET.encode() + b"@h:x/",
    b"http://[",
)
SEEDS = [
    *(bytes([i]) + value for i in range(len(NAMES)) for value in VALUES),
    b"\xfeEMBEDSERVE_PROT=1",
    b'\xffcurrency = "CNY"\n[limits]\nkey = {rpm = 600}\nmodels = {"text-embedding-v4" = {tpm = 1}}\n',
    b'\xff[prices."text-embedding-v4"]\ncny_per_1k = inf\nusd_per_1m = -1\nbatch = nan\n',
    b"\xff[free_quota]\nonly = 1\ndays = 1e9\n",
]
_path = Path(tempfile.gettempdir()) / f"embedserve-fuzz-plan-{os.getpid()}.toml"


def check(data: bytes) -> None:
    if data[:1] == b"\xff":
        check_plan(data[1:])
    else:
        check_environment(data)


def check_environment(data: bytes) -> None:
    given = {b"EMBEDSERVE_ADMIN_KEY": SECRET.encode()}
    for line in data.split(b"\n"):
        if not line:
            continue
        name, value = NAMES[line[0] % len(NAMES)].encode(), line[1:].replace(b"\0", b"")
        if line[0] == 0xFE:
            name, _, value = value.partition(b"=")
        if name:
            given[name] = value
    before = dict(os.environb)
    os.environb.update(given)
    try:
        settings = read_settings()
    except EmbedserveError as error:
        told = error.message
        assert 0 < len(told) < 300 * len(given), told
        assert SECRET not in told, told
        return
    finally:
        os.environb.clear()
        os.environb.update(before)
    limits = Limits.of(settings, 1024)
    assert 0 < limits.connections < 1024


def check_plan(text: bytes) -> None:
    _path.write_bytes(text)
    try:
        plan = Plan.read(_path)
    except EmbedserveError as error:
        str(error)
        return
    finally:
        _path.unlink()
    cost = plan.cost("text-embedding-v4", "sync", 1000)
    assert 0 <= cost < float("inf"), cost
