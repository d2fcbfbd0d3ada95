"""Writes the README's settings table from the Settings class: ``python scripts/settings_table.py``."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from embedserve.settings import Settings

README = Path(__file__).resolve().parents[1] / "README.md"


def shown_default(name: str) -> str:
    """The default as a reader would type it; nothing for those that depend on the machine."""
    default = Settings.model_fields[name].default
    if default is PydanticUndefined or default is None or default in ((), {}):
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def table() -> str:
    rows = [
        f"| `EMBEDSERVE_{name.upper()}` | {shown_default(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what it does |", "|---|---|---|", *rows])


def main() -> None:
    text = README.read_text()
    section = re.compile(r"(## Settings\n.*?\n\n)(?:SETTINGS_TABLE|\|.*?\|)(\n\n## )", re.S)
    README.write_text(section.sub(lambda found: found[1] + table() + found[2], text))


if __name__ == "__main__":
    main()
