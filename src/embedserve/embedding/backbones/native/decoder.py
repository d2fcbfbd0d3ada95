"""A Qwen3 decoder in the native core, over its C ABI."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Floats, Ids
from embedserve.embedding.backbones.native.backbone import usable_cores
from embedserve.embedding.backbones.native.library import (
    DecoderShape,
    NativeUnavailable,
    find_isa,
    load_library,
)
from embedserve.embedding.mapped_tensors import MappedTensor

_KINDS = {"fp32": 0, "bf16": 1, "fp16": 2}


class NativeDecoder:
    """int8 linear layers, attention in fp32; the same bits alone, in any batch, at any thread count.

    Tensors are given layer by layer (:meth:`pack_layer`), then :meth:`finish`. One call at a time.

    Args:
        shape: see core/decoder_shape.h.
        isa: ``auto`` or one of :data:`library.ISAS`.
        threads: of the decoder's own pool; all usable cores when omitted.

    Raises:
        NativeUnavailable: no compiled core, or not for this CPU or shape.
    """

    def __init__(self, shape: DecoderShape, *, isa: str = "auto", threads: int | None = None) -> None:
        self._library = load_library()
        self.isa = find_isa(isa)
        self.threads = threads or usable_cores()
        self.shape = shape
        self._kept: list[Any] = []
        created = self._library.decoder_create(ctypes.byref(shape), self.isa.encode(), self.threads)
        self._decoder: int | None = created
        if not created:
            raise NativeUnavailable(f"the native core cannot run this model: {self._library.last_error()}")

    def pack_layer(self, tensors: dict[str, MappedTensor]) -> None:
        """The next layer, from tensors under the names of core/decoder_weights.h; keeps none of them."""
        for name, tensor in tensors.items():
            self._set(name, tensor)
        self._check(self._library.decoder_pack_layer(self._decoder))

    def finish(self, words: MappedTensor, last_norm: MappedTensor) -> None:
        """After the last layer. The word table is read from where it lies, as long as the decoder lives."""
        self._set("words", words)
        self._set("last_norm", last_norm)
        self._check(self._library.decoder_finish(self._decoder))
        self._kept.append(words)

    def prefix_size(self, length: int) -> int:
        """fp32 values that keep the keys and values of ``length`` positions."""
        return int(2 * self.shape.layers * self.shape.kv_heads * self.shape.head_size * length)

    def encode(
        self,
        sequences: Sequence[tuple[Ids, Floats]],
        *,
        prefixes: Sequence[tuple[Floats, int] | None] | None = None,
        keep: Sequence[Floats] | None = None,
    ) -> Floats:
        """Weighted means of the last hidden states.

        Args:
            sequences: int32 ids and float32 pooling weights of each, without the positions of its prefix.
            prefixes: keys and values kept of the positions before, and their number.
            keep: per sequence (without prefix), where its keys and values are written: ``prefix_size(n)``.

        Returns:
            (len(sequences), hidden) float32; zeros where all weights are.
        """
        if self._decoder is None:
            raise RuntimeError("the decoder is closed")
        count = len(sequences)
        ids = np.concatenate([ids for ids, _ in sequences]).astype(np.int32, copy=False)
        pooling = np.concatenate([weights for _, weights in sequences]).astype(np.float32, copy=False)
        if ids.min() < 0 or ids.max() >= self.shape.vocabulary:
            raise ValueError(
                f"ids run from {ids.min()} to {ids.max()}, the vocabulary has {self.shape.vocabulary}"
            )
        if len(pooling) != len(ids):
            raise ValueError(f"{len(pooling)} pooling weights for {len(ids)} ids")
        offsets = np.cumsum([0] + [len(ids) for ids, _ in sequences]).astype(np.int32)
        before = prefixes or [None] * count
        lengths = np.array([one[1] if one else 0 for one in before], np.int32)
        pointers = np.array([one[0].ctypes.data if one else 0 for one in before], np.uintp)
        places = np.array([one.ctypes.data for one in keep], np.uintp) if keep is not None else None
        out = np.empty((count, self.shape.hidden), np.float32)
        self._check(
            self._library.decoder_encode(
                self._decoder,
                ids.ctypes.data,
                pooling.ctypes.data,
                offsets.ctypes.data,
                count,
                pointers.ctypes.data,
                lengths.ctypes.data,
                None if places is None else places.ctypes.data,
                out.ctypes.data,
            )
        )
        return out

    def resident_bytes(self) -> int:
        """Bytes of packed weights and working memory (the word table, mapped, not counted)."""
        return int(self._library.decoder_bytes(self._decoder)) if self._decoder else 0

    def close(self) -> None:
        """Idempotent."""
        decoder, self._decoder = self._decoder, None
        if decoder:
            self._library.decoder_destroy(decoder)
        self._kept.clear()

    def __del__(self) -> None:
        if getattr(self, "_decoder", None):
            self.close()

    def _set(self, name: str, tensor: MappedTensor) -> None:
        rows, columns = np.atleast_2d(tensor.values).shape
        kind = _KINDS[tensor.kind]
        self._check(
            self._library.decoder_set(
                self._decoder, name.encode(), tensor.values.ctypes.data, kind, rows, columns
            )
        )

    def _check(self, status: int) -> None:
        self._library.check(status)
