"""BERT and XLM-RoBERTa folders in the native int8 engine."""

from __future__ import annotations

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.backbones.encoder import PREFIXES, check_family, first_position
from embedserve.embedding.backbones.native import NativeBackbone
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.errors import ModelLoadError

_PARTS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}
"""The hub's name of a layer's part -> the engine's."""
_KINDS = {"weight": "w", "bias": "b", "gamma": "w", "beta": "b"}


def open_native(checkpoint: Checkpoint, *, isa: str = "auto", threads: int | None = None) -> NativeBackbone:
    """The folder's network at int8 on the CPU; PyTorch is not needed for safetensors in fp32 or fp16.

    Raises:
        ModelLoadError: another family, or missing tensors.
        NativeUnavailable: no compiled core, or a shape that it cannot run.
    """
    check_family(checkpoint)
    stored = checkpoint.arrays(*PREFIXES)
    tensors: dict[str, Floats] = {}
    try:
        tensors["emb.word"] = stored["embeddings.word_embeddings.weight"]
        # A copy: the table's first rows (padding) are not the engine's business.
        positions = stored["embeddings.position_embeddings.weight"][first_position(checkpoint) :]
        tensors["emb.pos"] = np.ascontiguousarray(positions)
        tensors["emb.type"] = stored["embeddings.token_type_embeddings.weight"]
        for kind, short in _KINDS.items():
            if (name := f"embeddings.LayerNorm.{kind}") in stored:
                tensors[f"emb.ln.{short}"] = stored[name]
        for layer in range(int(checkpoint.setting("num_hidden_layers"))):
            for part, brief in _PARTS.items():
                for kind, short in _KINDS.items():
                    name = f"encoder.layer.{layer}.{part}.{kind}"
                    if name in stored:
                        tensors[f"l{layer}.{brief}.{short}"] = stored[name]
                    elif kind in ("weight", "bias") and f"l{layer}.{brief}.{short}" not in tensors:
                        old = name.replace("weight", "gamma").replace("bias", "beta")
                        if old not in stored:
                            raise KeyError(name)
    except KeyError as error:
        lack = f"the weights in {checkpoint.folder} lack {error}"
        raise ModelLoadError(f"{lack}: not of this family") from error
    return NativeBackbone.from_arrays(
        tensors,
        heads=int(checkpoint.setting("num_attention_heads")),
        layer_norm_eps=float(checkpoint.setting("layer_norm_eps", 1e-12)),
        isa=isa,
        threads=threads,
    )
