"""Suites of tasks on disk: a folder for each task, ``meta.json`` and tables in it, here as JSON lines; other
formats that docs/files.md lists do as well.

- ``retrieval``: ``queries.jsonl`` (id, text, pool, subset, lang, instruct), ``corpus.jsonl`` (id, text, pool,
  lang), ``qrels.tsv`` (query, document, grade). A query searches the documents of its pool (or pools) only.
- ``sts``, ``pair``: ``pairs.jsonl`` (s1, s2, score, subset).
- ``classification``: ``train.jsonl``, ``test.jsonl`` (text, label, subset); ``train_subset`` in the meta
  names the one subset to train on (transfer to the others).
- ``clustering``: ``items.jsonl`` (text, label, subset).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from embedserve.errors import EmbedserveError
from embedserve.files.formats import READ, Format, find_kind
from embedserve.files.reader import read_objects

TYPES = ("retrieval", "sts", "pair", "classification", "clustering")
Rows = list[dict[str, Any]]
_TABLES = set(READ) - {Format.TXT}


@dataclass(frozen=True, slots=True)
class Task:
    """One task; ``rows`` by file name without its ending, read when the task is loaded."""

    name: str
    type: str
    metric: str
    rows: dict[str, Rows]
    relevant: dict[str, dict[str, int]] = field(default_factory=dict)
    """query id -> document id -> grade (retrieval)"""
    train_subset: str | None = None

    @property
    def group(self) -> str:
        """What reports sum up by: the first word of the name; retrieval over code counts as retrieval."""
        first = self.name.split("_", 1)[0]
        return {"code": "ret", "pair": "sts"}.get(first, first)

    def language(self, subset: str) -> str:
        """The language of a subset's texts as the suite states it, else the subset's own name."""
        for name in ("queries", "pairs", "test", "items"):
            for row in self.rows.get(name, []):
                if row.get("subset") == subset and row.get("lang"):
                    return str(row["lang"])
        return subset


def list_tasks(suite: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
    """The folders of the suite whose names match one of the patterns, in order.

    Raises:
        EmbedserveError: no such folder, or nothing matches.
    """
    folders = sorted(path.parent for path in suite.glob("*/meta.json"))
    if not folders:
        raise EmbedserveError(f"{suite} holds no tasks: expected folders with a meta.json in them")
    chosen = [folder for folder in folders if any(fnmatch(folder.name, pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(folder.name for folder in folders)
        raise EmbedserveError(f"no task matches {', '.join(patterns)}; there are {names}")
    return chosen


def load_task(folder: Path) -> Task:
    """One task with all its rows.

    Raises:
        EmbedserveError: a file is missing or a line is not what the format asks for.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        rows = {name: list(read_objects(path)) for name, path in _find_tables(folder).items()}
        kind = meta["type"]
        if kind not in TYPES:
            raise EmbedserveError(f"{folder.name}: type is {kind!r}, it should be one of {', '.join(TYPES)}")
        relevant = _read_qrels(folder / "qrels.tsv") if kind == "retrieval" else {}
        return Task(folder.name, kind, meta["metric"], rows, relevant, meta.get("train_subset"))
    except (OSError, KeyError, ValueError) as error:
        raise EmbedserveError(f"cannot read the task {folder}: {error}") from error


def _find_tables(folder: Path) -> dict[str, Path]:
    """Files of rows by their names without endings, in any format that :mod:`embedserve.files` reads."""
    tables: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        kind = find_kind(path.name)
        if (
            kind is None
            or name in ("meta", "qrels", "")
            or kind.format in (Format.TXT, Format.NPY, Format.NPZ)
        ):
            continue
        if name in tables:
            raise EmbedserveError(f"{path} and {tables[name].name} are one table in two formats: remove one")
        tables[name] = path
    return tables


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """query, document, grade; a first row of names is left out."""
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for number, row in enumerate(read_objects(path, header=False)):
        query, document, grade = row.values()
        if number or grade.lstrip("-").isdigit():
            relevant[query][document] = int(grade)
    return dict(relevant)
