"""Qwen3 checkpoints in the native int8 engine: no PyTorch, no library for the weights.

Linear layers are packed to int8 while their pages of the file pass through memory; the word table stays in
the file's memory map. The keys and values of instructions are kept between calls (see
:mod:`embedserve.embedding.backbones.instructions`); the bits are those of the whole sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats, Ids, Window
from embedserve.embedding.backbones.instructions import Prefix, cut_at
from embedserve.embedding.backbones.native.decoder import NativeDecoder
from embedserve.embedding.backbones.native.library import DecoderShape, NativeUnavailable
from embedserve.embedding.backbones.qwen3_shape import Shape
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.mapped_tensors import MappedTensors
from embedserve.errors import ModelLoadError

KEPT_POSITIONS = 512
"""Positions of instructions kept over all of them; the least recently used go. 0.2 MiB each at 0.6B."""
GROUP = 256
"""Inputs that share a scale (``kGroup`` of core/grouped_linear.h)."""
_PARTS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "input_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""The engine's name of a layer's part -> the hub's."""


class NativeQwen3Backbone:
    """See :class:`embedserve.embedding.backbones.base.Backbone`.

    Args:
        checkpoint: a folder of model type ``qwen3`` with safetensors in fp32, bf16 or fp16.
        prefix: how instructions are found; None computes every sequence whole.
        window_size: longest sequence; the checkpoint's own limit when omitted.
        isa: ``auto`` or one of :data:`embedserve.embedding.backbones.native.library.ISAS`.
        threads: all usable cores when omitted.

    Raises:
        ModelLoadError: a checkpoint of another family, torn, or that does not fit its configuration.
        NativeUnavailable: no compiled core, or weights or a shape that it cannot take.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        prefix: Prefix | None = None,
        window_size: int | None = None,
        isa: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.shape = shape = Shape.read(checkpoint)
        self.hidden_size = shape.hidden
        limit = int(checkpoint.setting("max_position_embeddings"))
        self.window_size = min(window_size or limit, limit)
        self._prefix = prefix
        self._instructions: OrderedDict[bytes, Floats] = OrderedDict()
        if any(file.suffix != ".safetensors" for file in checkpoint.weight_files):
            raise NativeUnavailable(
                f"the native core reads safetensors only, not those of {checkpoint.folder}"
            )
        tensors = MappedTensors(checkpoint.weight_files, "model.")
        try:
            words = tensors["embed_tokens.weight"]
            self._decoder = self._make_decoder(len(words.values), isa, threads)
            for layer in range(shape.layers):
                names = {part: f"layers.{layer}.{name}.weight" for part, name in _PARTS.items()}
                self._decoder.pack_layer({part: tensors[name] for part, name in names.items()})
                tensors.release(names.values())
            self._decoder.finish(words, tensors["norm.weight"])
        except KeyError as error:
            lack = f"the weights in {checkpoint.folder} lack {error}"
            raise ModelLoadError(f"{lack}: not a checkpoint of this family") from error
        self.name = f"qwen3-native-{self._decoder.isa}"

    def _make_decoder(self, vocabulary: int, isa: str, threads: int | None) -> NativeDecoder:
        shape = self.shape
        heads = (shape.heads, shape.kv_heads, shape.head_width)
        sizes = (shape.hidden, shape.layers, *heads, shape.ffn, self.window_size, vocabulary)
        return NativeDecoder(DecoderShape(*sizes, shape.eps, shape.rope_theta), isa=isa, threads=threads)

    def encode(self, windows: Sequence[Window]) -> Floats:
        if not windows:
            return np.empty((0, self.hidden_size), np.float32)
        lengths = [len(window.ids) for window in windows]
        if min(lengths) < 1 or max(lengths) > self.window_size:
            raise ValueError(
                f"windows have {min(lengths)} to {max(lengths)} ids, allowed are 1 to {self.window_size}"
            )
        cuts = [cut_at(window, self._prefix) for window in windows]
        heads = [window.ids[:cut] for window, cut in zip(windows, cuts, strict=True)]
        found = self._find_instructions([head for head in heads if len(head)])
        rows = self._decoder.encode(
            [(window.ids[cut:], window.weights[cut:]) for window, cut in zip(windows, cuts, strict=True)],
            prefixes=[(found[head.tobytes()], len(head)) if len(head) else None for head in heads],
        )
        return rows

    def _find_instructions(self, heads: Sequence[Ids]) -> dict[bytes, Floats]:
        """Keys and values of each instruction, computed now where they are not kept from before."""
        found: dict[bytes, Floats] = {}
        new: dict[bytes, Ids] = {}
        for head in heads:
            key = head.tobytes()
            if (kept := self._instructions.get(key)) is not None:
                self._instructions.move_to_end(key)
                found[key] = kept
            else:
                new[key] = head
        if new:
            places = [np.empty(self._decoder.prefix_size(len(head)), np.float32) for head in new.values()]
            self._decoder.encode(
                [(head, np.zeros(len(head), np.float32)) for head in new.values()], keep=places
            )
            made = dict(zip(new, places, strict=True))
            found |= made
            self._instructions |= made
        while sum(map(len, self._instructions)) > KEPT_POSITIONS * np.dtype(np.int32).itemsize:
            self._instructions.popitem(last=False)
        return found

    def resident_bytes(self) -> int:
        """Packed weights, working memory and kept instructions; the word table, mapped, not counted."""
        kept = sum(values.nbytes for values in self._instructions.values())
        return self._decoder.resident_bytes() + kept

    def close(self) -> None:
        self._instructions.clear()
        self._decoder.close()


def predict_bytes(checkpoint: Checkpoint) -> int:
    """Memory that a checkpoint will take in this engine: linear layers, instructions, work on long texts.

    The word table is not counted: its pages are the file's, and the system may take them back.
    """
    shape = Shape.read(checkpoint)
    q_width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    layer = shape.hidden * (2 * q_width + 2 * kv_width + 3 * shape.ffn)
    scales = layer * 8 // GROUP  # two fp32 numbers a group of inputs and output
    instructions = KEPT_POSITIONS * shape.layers * 2 * kv_width * 4
    longest = min(int(checkpoint.setting("max_position_embeddings")), 8192)
    work = longest * (shape.hidden + 2 * kv_width) * 4
    return shape.layers * (layer + scales) + instructions + work
