"""``embedserve eval`` against a running server, through both dialects, gives what the library gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedserve.cli.eval import measure
from embedserve.errors import EmbedserveError
from embedserve.evaluation.models import LibraryModel, ServerModel
from embedserve.evaluation.runner import Systems
from embedserve.evaluation.suites import list_tasks
from serving import KEY, Server

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


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSERVE_API_KEY", KEY)


def test_the_native_door_scores_as_the_library_does(suite: Path, server: Server, key: None) -> None:
    url = f"{server.native_url}/services/embeddings/text-embedding/text-embedding"
    systems = Systems([64, 1024])
    there = measure(list_tasks(suite), ServerModel(url, "text-embedding-v4", sparse=True), systems, None)
    here = measure(list_tasks(suite), LibraryModel(), systems, None)
    assert there.tasks == here.tasks
    assert set(there.systems) == {"dense@64", "dense@1024", "sparse", "dense&sparse@64", "dense&sparse@1024"}


def test_the_openai_door_serves_dense_vectors_without_roles(suite: Path, server: Server, key: None) -> None:
    model = ServerModel(server.openai_url, "text-embedding-v4", sparse=True)
    run = measure(list_tasks(suite), model, Systems([0, 256]), None)
    assert set(run.systems) == {"dense@0", "dense@256"}
    assert run.tasks["ret_small"]["dense@256"].score > 90


def test_a_lenient_openai_door_takes_roles(suite: Path, lenient_server: Server, key: None) -> None:
    model = ServerModel(lenient_server.openai_url, "text-embedding-v4", roles=True)
    run = measure(list_tasks(suite), model, Systems([256]), None)
    here = measure(list_tasks(suite), LibraryModel(sparse=False), Systems([256]), None)
    assert run.tasks == here.tasks


def test_a_refusal_names_the_server_and_its_words(
    suite: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSERVE_API_KEY", "sk-wrong")
    with pytest.raises(EmbedserveError, match="answered 401"):
        measure(list_tasks(suite), ServerModel(server.openai_url, "text-embedding-v4"), Systems([64]), None)
    nobody = ServerModel("http://127.0.0.1:9/v1", "text-embedding-v4")
    with pytest.raises(EmbedserveError, match="cannot reach"):
        measure(list_tasks(suite), nobody, Systems([64]), None)
