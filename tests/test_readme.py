"""The README says what is true: its settings are the settings, its links lead somewhere.

Its code runs in tests/docs/test_snippets.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import AliasChoices

from embedserve.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


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


@pytest.mark.quick
def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        if target.startswith("docs/") and not (ROOT / "docs").is_dir():
            continue
        assert (ROOT / target).exists() or target.startswith("docs/"), target
