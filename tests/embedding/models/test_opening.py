"""Folders to pipelines: detection, golden scores, dimensions, sparse vectors, the same bytes everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embedding.checkpoints import write_encoder, write_qwen3

from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.backbones.native import NativeUnavailable
from embedserve.embedding.backbones.torch_packing import Runtime
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.models import load, opening
from embedserve.embedding.models.detection import OWN_RECIPE, detect_recipe
from embedserve.embedding.models.hub_embedder import PublishedEmbedder
from embedserve.embedding.models.opening import Shared, open_model, predict_bytes, read_table, verify
from embedserve.embedding.models.store import ModelStore
from embedserve.embedding.recipes import QWEN3_GOLDEN, Pooling
from embedserve.embedding.sparse import LexicalWeights
from embedserve.errors import EmbedserveError, ModelLoadError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("safetensors")

CPU = Runtime("cpu", "fp32")


@pytest.fixture(scope="module")
def shared() -> Shared:
    backbone, tokenizer = open_bundled()
    backbone.close()
    return Shared(tokenizer, LexicalWeights(tokenizer))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    root = tmp_path_factory.mktemp("models")
    store = ModelStore(root / "store")
    write_qwen3(root / "qwen")
    store.pull(str(root / "qwen"), name="me/tiny-qwen")
    write_encoder(root / "tiny-bge-m3", pooling="cls", sparse_head=True, legacy=True)
    store.pull(str(root / "tiny-bge-m3"))
    return store


@pytest.fixture(scope="module")
def qwen(store: ModelStore, shared: Shared) -> Iterator[PublishedEmbedder]:
    embedder = open_model("me/tiny-qwen", store, shared, CPU)
    yield embedder
    embedder.close()


def test_qwen_vectors_are_those_of_sentence_transformers(qwen: PublishedEmbedder, store: ModelStore) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(store.folder("me/tiny-qwen")), device="cpu")
    texts = ["What is the capital of China?", "重力", "a much longer text about gravity " * 9]
    for role, prompt in (("query", "query"), ("document", "document")):
        theirs = reference.encode(texts, prompt_name=prompt, normalize_embeddings=True)
        ours = qwen.embed(texts, text_type=role).dense
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    theirs = reference.encode(texts, prompt="Instruct: Find it\nQuery:", truncate_dim=32)
    ours = qwen.embed(texts, text_type="query", instruct="Find it", dimension=32).dense
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_roles_and_instructions_change_queries_only(qwen: PublishedEmbedder) -> None:
    plain = qwen.embed("gravity").dense.tobytes()
    assert qwen.embed("gravity", text_type="document").dense.tobytes() == plain
    assert qwen.embed("gravity", text_type="document", instruct="Find it").dense.tobytes() == plain
    query = qwen.embed("gravity", text_type="query").dense.tobytes()
    assert query != plain
    assert qwen.embed("gravity", text_type="query", instruct="Find it").dense.tobytes() != query


def test_the_same_text_gives_the_same_bytes(
    qwen: PublishedEmbedder, store: ModelStore, shared: Shared
) -> None:
    texts = [f"text {i} " * (i + 1) for i in range(12)]
    together = qwen.embed(texts, text_type="query").dense
    again = open_model("me/tiny-qwen", store, shared, CPU)
    for text, row in zip(texts, together, strict=True):
        assert again.embed(text, text_type="query").dense[0].tobytes() == row.tobytes()


def test_sizes_come_from_the_checkpoint(qwen: PublishedEmbedder) -> None:
    assert qwen.default_dimension == 64
    assert qwen.embed("x").dense.shape == (1, 64)
    half = qwen.embed("x", dimension=48).dense
    np.testing.assert_allclose(np.linalg.norm(half), 1, atol=1e-6)
    with pytest.raises(EmbedserveError, match=r"in \[32, 64\], got 1024.*Qwen3-Embedding-4B"):
        qwen.embed("x", dimension=1024)


def test_every_model_gives_sparse_vectors(qwen: PublishedEmbedder, store: ModelStore, shared: Shared) -> None:
    lexical = qwen.embed("gravity attracts bodies", output_type="dense&sparse")
    assert lexical.dense.shape == (1, 64)
    assert {"gravi", "attract"} <= set(lexical.sparse[0].tokens)
    own = open_model("tiny-bge-m3", store, shared, CPU)
    both = own.embed("gravity attracts bodies " * 300, output_type="dense&sparse")  # several windows
    alone = own.embed("gravity attracts bodies " * 300, output_type="sparse")
    assert both.sparse[0].indices.tobytes() == alone.sparse[0].indices.tobytes()
    assert both.sparse[0].values.tobytes() == alone.sparse[0].values.tobytes()
    assert (np.diff(both.sparse[0].values) <= 0).all()
    assert not {0, 1, 2, 3} & set(both.sparse[0].indices.tolist())


def test_token_arrays_are_decoded_by_the_models_own_vocabulary(qwen: PublishedEmbedder) -> None:
    from embedserve.embedding.hub_tokenizer import HubTokenizer

    tokenizer = qwen._hub_tokenizer  # type: ignore[attr-defined]
    assert isinstance(tokenizer, HubTokenizer)
    assert qwen.decode(tokenizer.encode("gravity 重力").tolist()) == "gravity 重力"
    with pytest.raises(EmbedserveError, match="outside the served model's vocabulary"):
        qwen.decode([10**7])


def test_golden_scores_that_miss_refuse_to_serve(tmp_path: Path, store: ModelStore, shared: Shared) -> None:
    write_qwen3(tmp_path / "Qwen3-Embedding-0.6B")
    with pytest.raises(ModelLoadError, match="misses its golden scores"):
        open_model(str(tmp_path / "Qwen3-Embedding-0.6B"), store, shared, CPU)


def test_golden_scores_that_hold_are_served(tmp_path: Path, store: ModelStore, shared: Shared) -> None:
    folder = write_qwen3(tmp_path / "mine")
    free = open_model(str(folder), store, shared, CPU)
    queries = free.embed(list(QWEN3_GOLDEN.queries), text_type="query").dense
    documents = free.embed(list(QWEN3_GOLDEN.documents), text_type="document").dense
    stated = {
        "name": "mine",
        "pooling": "last",
        "native_size": 64,
        "max_tokens": 4096,
        "query": free.model.query,
        "end_token": "<|endoftext|>",
        "smallest_size": 32,
        "golden": {
            "queries": QWEN3_GOLDEN.queries,
            "documents": QWEN3_GOLDEN.documents,
            "scores": (queries @ documents.T).tolist(),
        },
    }
    (folder / OWN_RECIPE).write_text(json.dumps(stated))
    served = open_model(str(folder), store, shared, CPU)
    assert served.model.golden is not None
    assert served.embed("x").dense.tobytes() == free.embed("x").dense.tobytes()
    stated["query"] = free.model.query + " "  # the mistake of several ports
    (folder / OWN_RECIPE).write_text(json.dumps(stated))
    stated["golden"]["tolerance"] = 1e-4  # type: ignore[index]
    (folder / OWN_RECIPE).write_text(json.dumps(stated))
    with pytest.raises(ModelLoadError, match="misses its golden scores"):
        open_model(str(folder), store, shared, CPU)


@pytest.mark.parametrize(
    ("name", "files", "recipe", "pooling"),
    [
        ("multilingual-e5-large", {}, "e5", Pooling.MEAN),
        ("multilingual-e5-large-instruct", {}, "e5-instruct", Pooling.MEAN),
        ("e5-base-v2", {}, "e5", Pooling.MEAN),
        ("some-model", {}, "sentence-transformers", Pooling.MEAN),
    ],
)
def test_families_are_known_by_their_marks(
    tmp_path: Path, name: str, files: dict[str, Any], recipe: str, pooling: Pooling
) -> None:
    folder = write_encoder(tmp_path / name, prompts={"query": "q: ", "passage": "p: "})
    found = detect_recipe(Checkpoint(folder), name)
    assert (found.name, found.pooling) == (recipe, pooling)
    if recipe == "sentence-transformers":
        assert (found.query, found.document, found.prompt(None)) == ("q: ", "p: ", "")
        assert found.max_tokens == 512


def test_a_folder_that_says_nothing_or_contradicts_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "multilingual-e5-base", pooling="cls")
    with pytest.raises(ModelLoadError, match="cls pooling, the e5 recipe mean"):
        detect_recipe(Checkpoint(folder), "multilingual-e5-base")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"type": "x.Dense", "path": "3_Dense"}]))
    with pytest.raises(ModelLoadError, match="Dense"):
        detect_recipe(Checkpoint(folder), "some-model")
    (folder / "modules.json").unlink()
    with pytest.raises(ModelLoadError, match="nothing in"):
        detect_recipe(Checkpoint(folder), "some-model")
    (folder / OWN_RECIPE).write_text('{"name": "x", "poling": "mean"}')
    with pytest.raises(ModelLoadError, match="poling"):
        detect_recipe(Checkpoint(folder), "some-model")


def test_int8_encoders_run_in_the_native_engine(tmp_path: Path, shared: Shared) -> None:
    folder = write_encoder(tmp_path / "e5-tiny", hidden_size=128, intermediate_size=256)
    store = ModelStore(tmp_path)
    full = open_model(str(folder), store, shared, CPU)
    small = open_model(str(folder), store, shared, Runtime("cpu", "int8"))
    texts = ["what is the capital of China?", "gravity"]
    close = full.embed(texts).dense * small.embed(texts).dense
    assert close.sum(axis=1).min() > 0.999
    assert small.backbone.name.startswith(("native", "encoder-torch-cpu-int8"))
    assert small.recipe.describe()["fingerprint"] != full.recipe.describe()["fingerprint"]


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_qwen3_runs_in_the_native_engine_on_a_cpu(
    qwen: PublishedEmbedder,
    store: ModelStore,
    shared: Shared,
    precision: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "multiplies_tiles", lambda: False)
    small = open_model("me/tiny-qwen", store, shared, Runtime("cpu", precision))
    texts = ["what is the capital of China?", "gravity 重力", "gravity " * 1500]
    for role in ("query", "document"):
        close = qwen.embed(texts, text_type=role).dense * small.embed(texts, text_type=role).dense
        assert close.sum(axis=1).min() > 0.999
    assert small.backbone.name.startswith("qwen3-native")
    assert small.recipe.describe()["fingerprint"] != qwen.recipe.describe()["fingerprint"]
    assert predict_bytes("me/tiny-qwen", store, Runtime("cpu", precision)) > 0
    small.close()


def test_where_the_native_engine_cannot_pytorch_serves(
    store: ModelStore, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NativeUnavailable("no compiled core")

    monkeypatch.setattr(opening, "NativeQwen3Backbone", refuse)
    assert (
        open_model("me/tiny-qwen", store, shared, Runtime("cpu", "int8")).backbone.name
        == "qwen3-torch-cpu-int8"
    )
    monkeypatch.setattr(opening, "_has_torch", lambda: False)
    with pytest.raises(NativeUnavailable, match="no compiled core"):
        open_model("me/tiny-qwen", store, shared, Runtime("cpu", "int8"))


def test_a_program_opens_a_model_by_itself(store: ModelStore, qwen: PublishedEmbedder) -> None:
    own = load("me/tiny-qwen", data_dir=_data_dir(store), device="cpu", precision="fp32")
    assert own.embed("gravity").dense.tobytes() == qwen.embed("gravity").dense.tobytes()


def _data_dir(store: ModelStore) -> Path:
    link = store.root.parent / "models"
    if not link.exists():
        link.symlink_to(store.root, target_is_directory=True)
    return link.parent


def test_verify_tells_what_it_proved(store: ModelStore, shared: Shared) -> None:
    told = verify("me/tiny-qwen", store, shared, CPU)
    assert any(line.startswith("vectors: 64 dimensions, bit-equal") for line in told)
    weights = store.folder("me/tiny-qwen") / "model.safetensors"
    good = weights.read_bytes()
    try:
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ModelLoadError, match="not what was pulled"):
            verify("me/tiny-qwen", store, shared, CPU)
    finally:
        weights.write_bytes(good)


def test_memory_is_predicted_from_the_files(store: ModelStore) -> None:
    size = (store.folder("me/tiny-qwen") / "model.safetensors").stat().st_size
    assert size <= predict_bytes("me/tiny-qwen", store, CPU) < 1.2 * size


def test_the_table_of_models(tmp_path: Path) -> None:
    assert read_table(tmp_path) == {}
    (tmp_path / "models.toml").write_text('[models]\ntext-embedding-v4 = "Qwen/Qwen3-Embedding-0.6B"\n')
    assert read_table(tmp_path) == {"text-embedding-v4": "Qwen/Qwen3-Embedding-0.6B"}
    (tmp_path / "models.toml").write_text("[models]\nx = 3\n")
    with pytest.raises(ModelLoadError, match="x must be written"):
        read_table(tmp_path)
