"""The README says what is true: its settings are the settings, its first calls run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import AliasChoices

from embedserve.settings import Settings
from serving import KEY, Server

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    if not found:
        pytest.skip(f"README.md has no heading {title!r} yet")
    return found[1]


def shown_default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None or field.default is None or field.default in ((), {}):
        return "–"
    value = field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"EMBEDSERVE_{name.upper()}"


@pytest.mark.quick
def test_the_table_lists_exactly_the_settings() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section("Settings"), re.M)
    told = {name: default for name, default, _ in rows}
    assert len(told) == len(rows), "a setting is listed twice"
    assert told == {variable(name): shown_default(name) for name in Settings.model_fields}


@pytest.mark.quick
def test_every_setting_has_a_description_and_its_variable_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(field.description for field in Settings.model_fields.values())
    monkeypatch.setenv("EMBEDSERVE_PORT", "1234")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-x")
    settings = Settings()
    assert settings.port == 1234
    assert settings.api_key is not None


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section("First call"), re.M | re.S)


def run(command: list[str | Path], folder: Path) -> str:
    environment = {**os.environ, "DASHSCOPE_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("block", blocks("python") if "## First call" in README else [])
def test_the_python_blocks_run(block: str, server: Server, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.replace(ADDRESS, server.url), "utf-8")
    assert run([sys.executable, program], tmp_path).strip()


def test_the_curl_block_runs(server: Server, tmp_path: Path) -> None:
    for block in blocks("bash"):
        assert '"embedding"' in run(["bash", "-c", block.replace(ADDRESS, server.url)], tmp_path)


def test_the_node_block_runs(server: Server) -> None:
    folder = ROOT / "tests" / "compat" / "node"
    if shutil.which("node") is None or not (folder / "node_modules" / "openai").is_dir():
        pytest.skip("needs node and its openai package (make test installs it)")
    for number, block in enumerate(blocks("javascript")):
        program = folder / f"readme-{number}.mjs"  # beside node_modules, where node looks
        program.write_text(block.replace(ADDRESS, server.url), "utf-8")
        try:
            assert run(["node", program], folder).strip() == "1024"
        finally:
            program.unlink()


@pytest.mark.quick
def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        if target.startswith("docs/") and not (ROOT / "docs").is_dir():
            continue
        assert (ROOT / target).exists() or target.startswith("docs/"), target
