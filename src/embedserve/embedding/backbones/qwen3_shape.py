"""What the ``config.json`` of a Qwen3 checkpoint says about the network."""

from __future__ import annotations

from dataclasses import dataclass

from embedserve.embedding.checkpoint import Checkpoint
from embedserve.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    eps: float
    rope_theta: float

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Shape:
        """From ``config.json``, of transformers 4 or 5.

        Raises:
            ModelLoadError: another family, or a position scheme that is not implemented here.
        """
        if checkpoint.model_type != "qwen3":
            raise ModelLoadError(f"{checkpoint.folder} is a {checkpoint.model_type!r} model, not qwen3")
        setting = checkpoint.setting
        rope = checkpoint.config.get("rope_parameters") or checkpoint.config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if (
            kind != "default"
            or checkpoint.config.get("use_sliding_window")
            or setting("attention_bias", False)
        ):
            raise ModelLoadError(
                f"{checkpoint.folder} uses rope {kind!r}, sliding windows or attention biases, which this "
                "backbone does not compute: serve it by a remote engine instead"
            )
        heads = int(setting("num_attention_heads"))
        return cls(
            hidden=int(setting("hidden_size")),
            layers=int(setting("num_hidden_layers")),
            heads=heads,
            kv_heads=int(setting("num_key_value_heads")),
            head_width=int(setting("head_dim", int(setting("hidden_size")) // heads)),
            ffn=int(setting("intermediate_size")),
            eps=float(setting("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or setting("rope_theta", 1_000_000.0)),
        )
