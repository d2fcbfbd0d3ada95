"""Several models behind one server, through the real SDKs' wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embedserve import Embedder
from embedserve.embedding.models.store import ModelStore
from embedserve.embedding.recipes import e5
from embedserve.engines import Engine, Engines
from embedserve.errors import ModelLoadError
from embedserve.scheduling.scheduler import Scheduler
from serving import Server


def bare(reference: str, embedder: Embedder) -> Embedder:
    """Another pipeline over the same network, so that loading costs nothing."""
    return Embedder(
        recipe="plain",
        backbone=embedder.backbone,
        tokenizer=embedder.tokenizer,
        model=e5(embedder.backbone.hidden_size),
    )


class Opened:
    """Counts loads; fails for references called broken."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.loads = embedder, []  # type: ignore[var-annotated]

    def __call__(self, reference: str) -> Embedder:
        self.loads.append(reference)
        if reference == "broken":
            raise ModelLoadError("broken: its file is torn; pull it again")
        opened = bare(reference, self.embedder)
        opened.close = lambda: None  # type: ignore[method-assign]  # the network is shared by the tests
        return opened


def configure(embedder: Embedder, references: dict[str, str], limit: int) -> tuple[Engines, Opened]:
    opened = Opened(embedder)
    bundled = Engine(embedder, Scheduler(embedder.backbone, memory_limit=2 << 30))
    sizes = {"a": 60, "b": 60, "c": 30, "broken": 10, "huge": 1000}
    engines = Engines(
        bundled,
        references,
        open_embedder=opened,
        predict=lambda reference: sizes[reference],
        memory_limit=limit,
    )
    return engines, opened


@pytest.mark.quick
def test_models_load_when_asked_and_leave_by_use(embedder: Embedder) -> None:
    engines, opened = configure(
        embedder, {"text-embedding-v4": "a", "text-embedding-v3": "b", "text-embedding-v2": "c"}, 100
    )

    async def walk() -> None:
        assert engines.describe("text-embedding-v4") == {"served_from": "a", "state": "not loaded yet"}
        async with engines.lease("text-embedding-v1") as engine:
            assert engine is engines.bundled
        async with engines.lease("text-embedding-v4"), engines.lease("text-embedding-v4"):
            assert engines.loaded == {"a": 60}
        assert opened.loads == ["a"]
        async with engines.lease("text-embedding-v2"):
            assert engines.loaded == {"a": 60, "c": 30}
            async with engines.lease("text-embedding-v3"):  # a has to go, c is in use
                assert engines.loaded == {"b": 60, "c": 30}
                with pytest.raises(ModelLoadError, match="EMBEDSERVE_MODEL_MEMORY_MB"):
                    async with engines.lease("text-embedding-v4"):
                        pass
                assert engines.loaded == {"b": 60, "c": 30}
        await engines.close()
        assert engines.loaded == {}

    asyncio.run(walk())


@pytest.mark.quick
def test_a_model_that_fails_takes_nobody_down(embedder: Embedder) -> None:
    engines, opened = configure(embedder, {"text-embedding-v4": "broken", "text-embedding-v3": "c"}, 100)

    async def walk() -> None:
        for _ in range(3):
            with pytest.raises(ModelLoadError, match="torn") as caught:
                async with engines.lease("text-embedding-v4"):
                    pass
            assert caught.value.status == 503
        assert opened.loads == ["broken"]  # the reason is repeated, the load is not
        assert "torn" in str(engines.describe("text-embedding-v4")["state"])
        async with engines.lease("text-embedding-v3") as engine:
            prepared = engine.embedder.prepare(["x"], _options())
            assert (await engine.scheduler.encode(prepared[0].windows)).shape[0] == 1
        assert engines.loaded == {"c": 30}
        await engines.close()

    asyncio.run(walk())


def _options() -> Any:
    from embedserve.embedding.embedder import Options

    return Options()


@pytest.mark.quick
def test_one_network_behind_two_names_loads_once(embedder: Embedder) -> None:
    engines, opened = configure(embedder, {"text-embedding-v4": "a", "text-embedding-v3": "a"}, 100)

    async def ask(name: str) -> None:
        async with engines.lease(name):
            await asyncio.sleep(0)

    async def walk() -> None:
        await asyncio.gather(*(ask(name) for name in ["text-embedding-v4", "text-embedding-v3"] * 4))
        assert opened.loads == ["a"]
        await engines.close()

    asyncio.run(walk())


@pytest.mark.quick
def test_names_that_are_not_sold_are_refused(embedder: Embedder) -> None:
    with pytest.raises(ModelLoadError, match="gpt-embed"):
        configure(embedder, {"gpt-embed": "a"}, 100)


@pytest.mark.slow
def test_a_server_with_models_of_three_kinds(tmp_path: Path) -> None:
    for package in ("torch", "transformers", "safetensors"):
        pytest.importorskip(package)
    from tests.embedding.checkpoints import write_encoder, write_qwen3

    qwen = write_qwen3(tmp_path / "tiny-qwen", hidden_size=1024, num_hidden_layers=1)
    data = tmp_path / "data"
    write_encoder(tmp_path / "tiny-bge-m3", pooling="cls", sparse_head=True)
    ModelStore(data / "models").pull(str(tmp_path / "tiny-bge-m3"), name="me/tiny-bge-m3")
    (data / "models.toml").write_text('[models]\ntext-embedding-v3 = "me/tiny-bge-m3"\n')
    server = Server(
        *("--model", f"text-embedding-v4={qwen}"),
        *("--precision", "fp32", "--device", "cpu"),
        data_dir=data,
    )
    with server:
        client = httpx.Client(headers={"Authorization": f"Bearer {server.key}"}, timeout=120)

        def native(model: str, texts: list[str], **parameters: Any) -> httpx.Response:
            body = {"model": model, "input": {"texts": texts}, "parameters": parameters}
            path = "/api/v1/services/embeddings/text-embedding/text-embedding"
            return client.post(server.url + path, json=body)

        def dense(reply: httpx.Response) -> list[list[float]]:
            assert reply.status_code == 200, reply.text
            return [row["embedding"] for row in reply.json()["output"]["embeddings"]]

        texts = ["What is the capital of China?", "重力"]
        rows = dense(native("text-embedding-v4", texts))
        assert [len(row) for row in rows] == [1024, 1024]
        assert dense(native("text-embedding-v4", texts[1:]))[0] == rows[1]
        query = dense(native("text-embedding-v4", texts, text_type="query", instruct="Find it", dimension=64))
        assert [len(row) for row in query] == [64, 64]
        np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, atol=1e-5)
        both = native("text-embedding-v4", texts, output_type="dense&sparse").json()["output"]["embeddings"]
        assert all(row["sparse_embedding"] for row in both)
        too_large = native("text-embedding-v4", texts, dimension=2048)
        assert too_large.status_code == 400
        assert "Qwen3-Embedding-4B" in too_large.json()["message"]

        own_size = dense(native("text-embedding-v3", texts))
        assert [len(row) for row in own_size] == [64, 64]
        assert native("text-embedding-v3", texts, output_type="sparse").status_code == 200

        assert len(dense(native("text-embedding-v1", texts))) == 2

        told = client.get(f"{server.url}/compatible-mode/v1/models/text-embedding-v4").json()["embedserve"]
        assert told["state"] == "loaded"
        assert told["recipe"]["end_token"] == "<|endoftext|>"
        assert len(told["fingerprint"]) == 16
        plain = client.get(f"{server.url}/compatible-mode/v1/models/text-embedding-v1").json()["embedserve"]
        assert plain["fingerprint"] != told["fingerprint"]
        assert json.dumps(told)
