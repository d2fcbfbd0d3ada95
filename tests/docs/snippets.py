"""The code in README and docs: found, and turned into programs that can run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "console")

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})([\w+-]*)")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of code.

    Attributes:
        file: relative to the repository.
        language: as the fence names it; "" for a fence that names none, ``sh`` for an indented block.
        program: the text; of Python with what it goes on from: a block that imports nothing continues the
            one before it, as a reader does.
    """

    file: str
    line: int
    language: str
    text: str
    program: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def find_snippets() -> list[Snippet]:
    return [snippet for path in DOCUMENTS for snippet in read_document(path)]


def read_document(path: Path) -> Iterator[Snippet]:
    before: dict[str, str] = {}
    for line, language, text in read_blocks(path.read_text("utf-8").splitlines()):
        program = text
        if language == "python" and not re.search(r"^(import|from) ", text, re.M):
            program = f"{before.get(language, '')}\n{text}"
        if language == "console":
            program = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        before[language] = program
        yield Snippet(str(path.relative_to(ROOT)), line, language, text, program)


def read_blocks(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """(number of the first line, language, text) of blocks: fenced, or indented after a blank line."""
    at = 0
    while at < len(lines):
        if fence := _FENCE.match(lines[at]):
            margin, ticks, language = len(fence[1]), fence[2], fence[3]
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == ticks), len(lines))
            yield at + 1, language, "\n".join(line[margin:] for line in lines[at + 1 : end])
            at = end + 1
        elif (
            lines[at].startswith("    ")
            and (at == 0 or not lines[at - 1].strip())
            and not _in_list(lines, at)
        ):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("    ")), len(lines))
            yield at + 1, "sh", "\n".join(line[4:] for line in lines[at:end])
            at = end
        else:
            at += 1


def _in_list(lines: list[str], at: int) -> bool:
    """Whether an indented line is a paragraph of a list above it."""
    above = next((line for line in reversed(lines[:at]) if line.strip() and not line.startswith(" ")), "")
    return bool(re.match(r"([-*+]|\d+\.) ", above))
