"""A BERT-shaped encoder in the native core."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.native.library import NativeUnavailable, Shape, find_isa, load_library
from embedserve.embedding.weights import BLOCK, BLOCK_BYTES, BundledWeights


def usable_cores() -> int:
    """Cores this process may use: its CPU affinity, and the cgroup's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return cores


class NativeBackbone:
    """See :class:`embedserve.embedding.backbones.base.Backbone`.

    int8 linear layers with a scale per token and per output channel, sequences packed without padding.
    Bit-equal vectors alone or in any batch, in any order and at any thread count, on one instruction set.

    Args:
        isa: ``auto`` or one of :data:`library.ISAS`.
        threads: of the engine's own pool; :func:`usable_cores` when omitted.

    Raises:
        NativeUnavailable: no compiled core, or not for this CPU or shape.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        layers: int,
        heads: int,
        ffn_size: int,
        positions: int,
        vocabulary_size: int,
        layer_norm_eps: float,
        isa: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._library = load_library()
        self.isa = find_isa(isa)
        self.name = f"native-{self.isa}"
        self.threads = threads or usable_cores()
        self.hidden_size = hidden_size
        self.window_size = positions
        self.vocabulary_size = vocabulary_size
        shape = Shape(hidden_size, layers, heads, ffn_size, positions, vocabulary_size, layer_norm_eps)
        self._model: int | None = self._library.model_create(
            ctypes.byref(shape), self.isa.encode(), self.threads
        )
        if not self._model:
            raise NativeUnavailable(f"the native core cannot run this model: {self._library.last_error()}")
        self._kept: list[Any] = []

    @classmethod
    def from_bundled(
        cls, weights: BundledWeights, *, isa: str = "auto", threads: int | None = None
    ) -> NativeBackbone:
        """The bundled weights; the word table stays in their memory map."""
        backbone = cls(
            hidden_size=weights.hidden_size,
            layers=weights.layers,
            heads=weights.heads,
            ffn_size=weights.ffn_size,
            positions=weights.positions,
            vocabulary_size=weights.vocabulary_size,
            layer_norm_eps=weights.layer_norm_eps,
            isa=isa,
            threads=threads,
        )
        columns = {"fo": weights.ffn_size}
        for name, (offset, size) in weights.tensors.items():
            part = name.split(".")[-2]
            if name == "emb.word" or (name.endswith(".w") and part in {"q", "k", "v", "ao", "fi", "fo"}):
                raw = np.frombuffer(weights.map, np.uint8, size, offset)
                backbone._set_q4(name, raw, columns.get(part, weights.hidden_size))
            else:
                values = np.frombuffer(weights.map, "<f4", size // 4, offset)
                wide = name in {"emb.pos", "emb.type"}
                backbone._set_fp32(name, values.reshape(-1, weights.hidden_size) if wide else values[None])
        backbone._pack()
        backbone._kept = [weights.map]
        return backbone

    @classmethod
    def from_arrays(
        cls,
        tensors: dict[str, Floats],
        *,
        heads: int,
        layer_norm_eps: float = 1e-12,
        isa: str = "auto",
        threads: int | None = None,
    ) -> NativeBackbone:
        """fp32 arrays under the bundled file's names, the shape read off them.

        Args:
            tensors: ``emb.word`` (vocabulary, hidden), ``emb.pos`` (positions, hidden; row 0 is the first
                token's), ``emb.type`` (any, hidden), ``emb.ln.w`` and ``.b``; and per layer i ``l{i}.q``,
                ``.k``, ``.v``, ``.ao`` (attention output), ``.fi``, ``.fo`` (FFN in and out) each with
                ``.w`` (outputs, inputs) and ``.b``, ``l{i}.aln`` and ``.oln`` (norms after attention and
                FFN) with ``.w`` and ``.b``. Only ``emb.word`` is kept.
        """
        words, positions = tensors["emb.word"], tensors["emb.pos"]
        backbone = cls(
            hidden_size=words.shape[1],
            layers=sum(name.endswith(".aln.w") for name in tensors),
            heads=heads,
            ffn_size=tensors["l0.fi.w"].shape[0],
            positions=positions.shape[0],
            vocabulary_size=words.shape[0],
            layer_norm_eps=layer_norm_eps,
            isa=isa,
            threads=threads,
        )
        for name, values in tensors.items():
            backbone._set_fp32(name, np.atleast_2d(values))
        kept = backbone._kept[list(tensors).index("emb.word")]
        backbone._pack()
        backbone._kept = [kept]
        return backbone

    def _set_fp32(self, name: str, values: Floats) -> None:
        values = np.ascontiguousarray(values, np.float32)
        self._kept.append(values)
        self._check(
            self._library.model_set_fp32(self._model, name.encode(), values.ctypes.data, *values.shape)
        )

    def _set_q4(self, name: str, blocks: NDArray[np.uint8], columns: int) -> None:
        rows = blocks.size // BLOCK_BYTES * BLOCK // columns
        self._kept.append(blocks)
        self._check(self._library.model_set_q4(self._model, name.encode(), blocks.ctypes.data, rows, columns))

    def _pack(self) -> None:
        self._check(self._library.model_pack(self._model))

    def _check(self, status: int) -> None:
        self._library.check(status)

    def encode(self, windows: Sequence[Window]) -> Floats:
        out = np.empty((len(windows), self.hidden_size), np.float32)
        if not windows:
            return out
        if self._model is None:
            raise RuntimeError(f"{self.name} is closed")
        lengths = np.array([len(window.ids) for window in windows], np.int32)
        if lengths.min() < 1 or lengths.max() > self.window_size:
            raise ValueError(
                f"windows have {lengths.min()} to {lengths.max()} ids, allowed are 1 to {self.window_size}"
            )
        ids = np.concatenate([window.ids for window in windows]).astype(np.int32, copy=False)
        if ids.min() < 0 or ids.max() >= self.vocabulary_size:
            raise ValueError(
                f"ids run from {ids.min()} to {ids.max()}, the vocabulary has {self.vocabulary_size}"
            )
        pooling = np.concatenate([window.weights for window in windows]).astype(np.float32, copy=False)
        if len(pooling) != len(ids):
            raise ValueError(f"{len(pooling)} pooling weights for {len(ids)} ids")
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        self._check(
            self._library.model_encode(
                self._model,
                ids.ctypes.data,
                pooling.ctypes.data,
                offsets.ctypes.data,
                len(windows),
                out.ctypes.data,
            )
        )
        return out

    def resident_bytes(self) -> int:
        """Bytes of packed weights and working memory (the word table, mapped or kept, not counted)."""
        return int(self._library.model_bytes(self._model)) if self._model else 0

    def close(self) -> None:
        model, self._model = self._model, None
        if model:
            self._library.model_destroy(model)
        self._kept.clear()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()
