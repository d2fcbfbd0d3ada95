"""``embedserve eval`` against a running server, through both dialects, gives what the library gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedserve.cli.eval import measure
from embedserve.errors import EmbedserveError
from embedserve.evaluation.models import LibraryModel, ServerModel
from embedserve.evaluation.runner import Systems
from embedserve.evaluation.suites import list_tasks
from serving import KEY, Server


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
