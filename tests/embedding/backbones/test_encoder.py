"""Parity with ``sentence-transformers`` on the same folder, and bge-m3's sparse formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embedding.checkpoints import write_encoder

from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.encoder import SLOTS, EncoderBackbone, read_slots, write_slots
from embedserve.embedding.backbones.torch_packing import Runtime
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.recipes import Pooling, Recipe, cut_and_normalise
from embedserve.errors import ModelLoadError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

TEXTS = [
    "what is the capital of China?",
    "重力 gravity",
    "the capital of china is beijing. " * 12,
    "x",
    "gravity is a force that attracts two bodies </s> 你好",
]


def make_windows(tokenizer: HubTokenizer, pooling: Pooling, texts: list[str]) -> list[Window]:
    recipe = Recipe("test", pooling, 64, 512)
    sequences = [tokenizer.wrap(tokenizer.encode(text), 512)[0] for text in texts]
    return [Window(ids, recipe.pool_weights(len(ids))) for ids in sequences]


@pytest.mark.parametrize(
    ("family", "pooling", "legacy"),
    [("bert", "mean", False), ("xlm-roberta", "mean", False), ("xlm-roberta", "cls", True)],
)
def test_fp32_agrees_with_sentence_transformers(
    tmp_path: Path, family: str, pooling: str, legacy: bool
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = write_encoder(tmp_path, family=family, pooling=pooling, legacy=legacy)
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = [text.replace("</s>", "") for text in TEXTS]
    theirs = reference.encode(texts, normalize_embeddings=True)
    tokenizer = HubTokenizer(folder)
    backbone = EncoderBackbone(Checkpoint(folder), Runtime("cpu", "fp32"))
    windows = make_windows(tokenizer, Pooling(pooling), texts)
    tokenized = reference.tokenizer(texts)["input_ids"]
    assert [window.ids.tolist() for window in windows] == tokenized
    ours = cut_and_normalise(backbone.encode(windows), 64)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.999), ("int8", 0.999)])
def test_smaller_arithmetic_stays_close(tmp_path: Path, precision: Any, cosine: float) -> None:
    folder = write_encoder(tmp_path)
    windows = make_windows(HubTokenizer(folder), Pooling.MEAN, TEXTS)
    full = cut_and_normalise(EncoderBackbone(Checkpoint(folder), Runtime("cpu", "fp32")).encode(windows), 64)
    small = cut_and_normalise(
        EncoderBackbone(Checkpoint(folder), Runtime("cpu", precision)).encode(windows), 64
    )
    assert (full * small).sum(axis=1).min() > cosine


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_window_keeps_its_bits_in_any_batch(tmp_path: Path, precision: Any) -> None:
    folder = write_encoder(tmp_path, sparse_head=True)
    backbone = EncoderBackbone(Checkpoint(folder), Runtime("cpu", precision))
    texts = TEXTS + ["the force of gravity " * i for i in range(1, 25)]
    windows = make_windows(HubTokenizer(folder), Pooling.MEAN, texts)
    together = backbone.encode(windows)
    alone = np.concatenate([backbone.encode([window]) for window in windows])
    assert alone.tobytes() == together.tobytes()
    assert backbone.encode(windows[::-1]).tobytes() == together[::-1].tobytes()


def test_the_sparse_head_follows_the_published_formula(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, pooling="cls", sparse_head=True, legacy=True)
    tokenizer = HubTokenizer(folder)
    backbone = EncoderBackbone(Checkpoint(folder), Runtime("cpu", "fp32"), silent_ids=tokenizer.special_ids)
    windows = make_windows(tokenizer, Pooling.CLS, TEXTS)
    rows = backbone.encode(windows)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    head = torch.load(folder / "sparse_linear.pt", weights_only=True)
    total = 0
    for window, row in zip(windows, rows, strict=True):
        with torch.no_grad():
            ids = torch.from_numpy(window.ids.astype(np.int64))[None]
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            weights = torch.relu(states @ head["weight"][0] + head["bias"])
        expected: dict[int, float] = {}
        for token, weight in zip(window.ids.tolist(), weights.tolist(), strict=True):
            if weight > 0 and token not in (0, 1, 2, 3):
                expected[token] = max(weight, expected.get(token, 0))
        found, values = read_slots(row[backbone.state_size :])
        total += len(expected)
        assert set(found.tolist()) == set(expected)
        assert values.tolist() == sorted(values.tolist(), reverse=True)
        for token, value in zip(found.tolist(), values.tolist(), strict=True):
            assert value == pytest.approx(expected[token], abs=1e-4)
    assert total > 10


def test_more_ids_than_slots_keep_the_heaviest() -> None:
    slots = np.zeros(2 * SLOTS, np.float32)
    ids = np.arange(2000, dtype=np.int32)
    write_slots(slots, ids, np.arange(2000, dtype=np.float32), np.array([1999], np.int32))
    found, values = read_slots(slots)
    assert len(found) == SLOTS
    assert found[0] == 1998
    assert values[0] == 1998


def test_other_networks_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, hidden_act="relu")
    with pytest.raises(ModelLoadError, match="remote engine"):
        EncoderBackbone(Checkpoint(folder))
