"""A suite of one small retrieval task, as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TEXTS = [
    "Bread rises because yeast makes gas.",
    "The moon moves the tides.",
    "Cats sleep most of the day.",
    "Error E4711: the spool is jammed.",
]
QUESTIONS = ["why does dough grow", "what causes tides", "how long do cats sleep", "E4711"]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite" / "ret_small"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text('{"type": "retrieval", "metric": "ndcg@10"}')
    corpus = [{"id": f"d{i}", "text": text, "pool": "p"} for i, text in enumerate(TEXTS)]
    queries = [
        {"id": f"q{i}", "text": text, "pool": "p", "subset": "en", "lang": "en"}
        for i, text in enumerate(QUESTIONS)
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(TEXTS))))
    return folder.parent
