"""The encoder in plain NumPy fp32: slow, short, and the yardstick of every faster backbone.

Devlin et al. 2019 (BERT, post-layer-norm), in the shape of multilingual-e5-small (Wang et al. 2024). Each
window runs through the network on its own, so its vector cannot depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats, Ids, Window
from embedserve.embedding.weights import BundledWeights


def gelu(x: Floats) -> Floats:
    """x * Phi(x) with erf by Abramowitz & Stegun 7.1.26 (absolute error below 1.5e-7)."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1 / (1 + np.float32(0.3275911) * z)
    poly = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = poly * t + np.float32(coefficient)
    erf = 1 - poly * t * np.exp(-z * z)
    activated: Floats = np.float32(0.5) * x * (1 + np.copysign(erf, x))
    return activated


def layer_norm(x: Floats, gain: Floats, bias: Floats, eps: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed: Floats = centred / np.sqrt(variance + np.float32(eps)) * gain + bias
    return normed


class ReferenceBackbone:
    """See :class:`embedserve.embedding.backbones.base.Backbone`."""

    name = "reference-fp32"

    def __init__(self, weights: BundledWeights) -> None:
        self._weights = weights
        self.hidden_size = weights.hidden_size
        self.window_size = weights.positions
        hidden, ffn = weights.hidden_size, weights.ffn_size
        shapes = {"q": hidden, "k": hidden, "v": hidden, "ao": hidden, "fi": hidden, "fo": ffn}
        self._linear = {
            f"l{layer}.{part}": (
                weights.q4_rows(f"l{layer}.{part}.w", columns).T.copy(),
                weights.fp32(f"l{layer}.{part}.b", -1),
            )
            for layer in range(weights.layers)
            for part, columns in shapes.items()
        }

    def encode(self, windows: Sequence[Window]) -> Floats:
        rows = [window.weights @ self.hidden_states(window.ids) / window.weights.sum() for window in windows]
        return np.array(rows, np.float32).reshape(len(windows), self.hidden_size)

    def close(self) -> None:
        self._linear.clear()

    def hidden_states(self, ids: Ids) -> Floats:
        """(n, hidden_size) states of the last layer for one window of n ids."""
        weights, hidden = self._weights, self.hidden_size
        x = weights.q4_rows("emb.word", hidden, ids)
        x = x + weights.fp32("emb.pos", -1, hidden)[: len(ids)] + weights.fp32("emb.type", -1, hidden)[0]
        x = self._norm(x, "emb.ln")
        for layer in range(weights.layers):
            x = self._norm(x + self._attend(x, layer), f"l{layer}.aln")
            inner = gelu(self._apply(x, f"l{layer}.fi"))
            x = self._norm(x + self._apply(inner, f"l{layer}.fo"), f"l{layer}.oln")
        return x

    def _attend(self, x: Floats, layer: int) -> Floats:
        heads = self._weights.heads
        width = self.hidden_size // heads
        q, k, v = (
            self._apply(x, f"l{layer}.{part}").reshape(len(x), heads, width).transpose(1, 0, 2)
            for part in "qkv"
        )
        scores = q @ k.transpose(0, 2, 1) * np.float32(width**-0.5)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = scores / scores.sum(axis=-1, keepdims=True)
        context = (scores @ v).transpose(1, 0, 2).reshape(len(x), self.hidden_size)
        return self._apply(context, f"l{layer}.ao")

    def _apply(self, x: Floats, part: str) -> Floats:
        weight, bias = self._linear[part]
        result: Floats = x @ weight + bias
        return result

    def _norm(self, x: Floats, part: str) -> Floats:
        weights = self._weights
        return layer_norm(
            x, weights.fp32(f"{part}.w", -1), weights.fp32(f"{part}.b", -1), weights.layer_norm_eps
        )
