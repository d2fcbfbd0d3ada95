"""Qwen3-Embedding's published shapes with random weights, for speed: the arithmetic does not care.

python benchmarks/qwen3_shapes.py    prints the memory that each takes in each arithmetic
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Window


@dataclass(frozen=True, slots=True)
class Shape:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 8
    head_dim: int = 128

    @property
    def linear_flops(self) -> int:
        """Of one token through the linear layers."""
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        matrices = self.hidden_size * (2 * q + 2 * kv) + 3 * self.hidden_size * self.intermediate_size
        return 2 * matrices * self.num_hidden_layers

    def flops(self, length: int) -> float:
        """Of one token in a sequence of ``length``, causal attention included."""
        return (
            self.linear_flops
            + 2.0 * length * self.num_attention_heads * self.head_dim * self.num_hidden_layers
        )


SHAPES = {
    "0.6B": Shape(1024, 3072, 28, 16),
    "4B": Shape(2560, 9728, 36, 32),
    "8B": Shape(4096, 12288, 36, 32),
}
REAL_VOCABULARY = 151_669
VOCABULARY = 4096
"""Instead of 151,669: looking a row up costs the same, and the file is smaller."""


def write_checkpoint(folder: Path, shape: Shape, device: str = "cpu", *, outliers: bool = False) -> Path:
    """``config.json`` and bf16 shards in the hub's format, drawn with a fixed seed.

    Trained decoders have channels far above the rest, which random weights have not. With ``outliers`` some
    are put in: see :func:`inject_outliers`.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "model_type": "qwen3",
        "architectures": ["Qwen3Model"],
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32768,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        **asdict(shape),
    }
    (folder / "config.json").write_text(json.dumps(told))
    generator = torch.Generator(device).manual_seed(1)

    def draw(*size: int, scale: float = 0.0) -> torch.Tensor:
        scale = scale or size[-1] ** -0.5
        drawn = torch.randn(size, generator=generator, device=device) * scale
        return drawn.to(torch.bfloat16).cpu()

    def gain(width: int) -> torch.Tensor:
        return (1 + draw(width, scale=0.1).float()).to(torch.bfloat16)

    hidden, ffn, wide = shape.hidden_size, shape.intermediate_size, shape.head_dim
    q, kv = shape.num_attention_heads * wide, shape.num_key_value_heads * wide
    files: dict[str, str] = {}
    for layer in range(shape.num_hidden_layers):
        at = f"layers.{layer}"
        tensors = {
            f"{at}.input_layernorm.weight": gain(hidden),
            f"{at}.post_attention_layernorm.weight": gain(hidden),
            f"{at}.self_attn.q_norm.weight": gain(wide),
            f"{at}.self_attn.k_norm.weight": gain(wide),
            f"{at}.self_attn.q_proj.weight": draw(q, hidden),
            f"{at}.self_attn.k_proj.weight": draw(kv, hidden),
            f"{at}.self_attn.v_proj.weight": draw(kv, hidden),
            f"{at}.self_attn.o_proj.weight": draw(hidden, q),
            f"{at}.mlp.gate_proj.weight": draw(ffn, hidden),
            f"{at}.mlp.up_proj.weight": draw(ffn, hidden),
            f"{at}.mlp.down_proj.weight": draw(hidden, ffn),
        }
        if layer == 0:
            tensors["embed_tokens.weight"] = draw(VOCABULARY, hidden, scale=1.0)
            tensors["norm.weight"] = gain(hidden)
        if outliers:
            inject_outliers(tensors, at)
        name = f"model-{layer:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(tensors, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def inject_outliers(tensors: dict[str, Any], at: str) -> None:
    """Large channels, in place: in every token's state, behind the norms, on keys, and gated ones.

    The last are made up for by small weights behind them, so that no channel rules alone.
    """
    if "embed_tokens.weight" in tensors:
        tensors["embed_tokens.weight"][:, [11, 300]] *= 40
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{at}.{norm}.weight"][[5, 77, 640]] *= 12
    tensors[f"{at}.self_attn.k_norm.weight"][9] *= 8
    tensors[f"{at}.mlp.up_proj.weight"][[3, 1000]] *= 100
    tensors[f"{at}.mlp.down_proj.weight"][:, [3, 1000]] /= 100


def draw_windows(lengths: list[int]) -> list[Window]:
    """Random ids, last-token pooling."""
    rng = np.random.default_rng(3)
    windows = []
    for length in lengths:
        weights = np.zeros(length, np.float32)
        weights[-1] = 1
        windows.append(Window(rng.integers(0, VOCABULARY, length).astype(np.int32), weights))
    return windows


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The worst over the rows."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
    return float((unit[0] * unit[1]).sum(axis=1).min())


def main() -> None:
    """Weights in memory, and what a text of 8,192 tokens takes on top in the native engine while it runs.

    PyTorch keeps the word table and the norms in fp32; the native engine leaves the table in the file's
    memory map (not counted) and keeps two fp32 numbers for every 256 inputs of an output.
    """
    columns = [
        "shape",
        "parameters",
        "fp32",
        "bf16",
        "int8, PyTorch",
        "int8, native",
        "text of 8,192, native",
    ]
    print("| " + " | ".join([*columns, "work a token"]) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, shape in SHAPES.items():
        linear, table = shape.linear_flops // 2, REAL_VOCABULARY * shape.hidden_size
        whole = linear + table
        sizes = [4 * whole, 2 * whole, linear + 4 * table, linear * (1 + 8 / 256)]
        cells = [f"{size / 2**30:.1f} GiB" for size in sizes]
        row = shape.hidden_size + 2 * shape.num_key_value_heads * shape.head_dim  # state, key and value
        cells.append(f"{8192 * 4 * row / 2**20:.0f} MiB")
        work = f"{shape.linear_flops / 1e9:.2f} GFLOP"
        print(f"| {name} | {whole / 1e9:.2f} B | " + " | ".join(cells) + f" | {work} |")


if __name__ == "__main__":
    main()
