"""BERT and XLM-RoBERTa encoders from hub folders, packed, in PyTorch; bge-m3's sparse head with them.

Sources: Devlin et al. 2019 (BERT), Conneau et al. 2020 (XLM-R: positions count from behind the padding id),
Chen et al. 2024 (bge-m3: a token's lexical weight is relu(w·h + b), the largest per vocabulary id counts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.torch_linear import Linear, make_linear
from embedserve.embedding.backbones.torch_packing import (
    Pack,
    Runtime,
    TorchBackbone,
    attend_one,
    cumulative,
    find_varlen,
    make_pack,
    pool_rows,
)
from embedserve.embedding.checkpoint import Checkpoint, State, import_torch
from embedserve.errors import ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = ("bert.", "roberta.", "xlm_roberta.")
FAMILIES = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}
"""model type -> whether positions count from behind the padding id."""
SPARSE_HEAD = "sparse_linear.pt"
SLOTS = 1024
"""Lexical weights a window can return; of more distinct ids the heaviest are kept."""


def check_family(checkpoint: Checkpoint) -> None:
    """Raises ModelLoadError for a network that is no plain BERT or RoBERTa."""
    family, activation = checkpoint.model_type, checkpoint.setting("hidden_act", "gelu")
    positions = checkpoint.config.get("position_embedding_type") or "absolute"
    if family not in FAMILIES or activation != "gelu" or positions != "absolute":
        raise ModelLoadError(
            f"{checkpoint.folder} is a {family!r} model with {activation} and {positions} positions; served "
            f"here are {', '.join(FAMILIES)} with gelu and absolute ones: serve it by a remote engine instead"
        )


def first_position(checkpoint: Checkpoint) -> int:
    """Row of the position table that belongs to the first token."""
    return int(checkpoint.setting("pad_token_id", 1)) + 1 if FAMILIES[checkpoint.model_type] else 0


@dataclass(slots=True)
class Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        layer_norm = import_torch().nn.functional.layer_norm
        normed: Tensor = layer_norm(x, (len(self.weight),), self.weight, self.bias, self.eps)
        return normed


@dataclass(slots=True)
class Layer:
    qkv: Linear
    out: Linear
    after_attention: Norm
    inner: Linear
    outer: Linear
    after_mlp: Norm


class EncoderBackbone(TorchBackbone):
    """See :class:`embedserve.embedding.backbones.base.Backbone`.

    With a sparse head, rows are wider: ``state_size`` pooled states, then ``SLOTS`` vocabulary ids and
    ``SLOTS`` weights of the window's tokens (:func:`read_slots`), so that one forward gives both kinds of
    vector and whatever keeps rows keeps both.

    Args:
        checkpoint: a folder of one of ``FAMILIES``.
        runtime: device and arithmetic.
        silent_ids: ids without a lexical weight (the special tokens).

    Raises:
        ModelLoadError: PyTorch missing, another family, or tensors that do not fit the configuration.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime | None = None,
        *,
        silent_ids: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__((runtime or Runtime()).resolve())
        torch, setting = import_torch(), checkpoint.setting
        check_family(checkpoint)
        precision, device = self.runtime.precision, self.runtime.device
        self.name = f"encoder-torch-{device.partition(':')[0]}-{precision}"
        self.state_size = int(setting("hidden_size"))
        self.heads = int(setting("num_attention_heads"))
        self.ffn = int(setting("intermediate_size"))
        self.eps = float(setting("layer_norm_eps", 1e-12))
        self._first_position = first_position(checkpoint)
        self.window_size = int(setting("max_position_embeddings")) - self._first_position
        low = precision == "bf16" or (precision == "int8" and device != "cpu")
        self.dtype = torch.bfloat16 if low else torch.float32
        self._layers: list[Layer] = []
        self._silent = np.array(sorted(silent_ids), np.int32)
        with torch.inference_mode():
            self._load(checkpoint.state(*PREFIXES), int(setting("num_hidden_layers")))
            self._head = self._load_head(checkpoint)
        self.hidden_size = self.state_size + (2 * SLOTS if self._head else 0)
        self._varlen = find_varlen(device) if low else None
        self.measure_budget((self.state_size * 8 + self.ffn) * self.dtype.itemsize)

    def _load(self, state: State, layers: int) -> None:
        torch, hidden = import_torch(), self.state_size

        def take(name: str, *shape: int) -> Tensor:
            return state.take(name, *shape).to(device=self.runtime.device, dtype=self.dtype)

        def norm(name: str) -> Norm:
            old = f"{name}.gamma" in state
            names = (f"{name}.gamma", f"{name}.beta") if old else (f"{name}.weight", f"{name}.bias")
            return Norm(take(names[0], hidden), take(names[1], hidden), self.eps)

        def linear(*names: str, rows: int = hidden, columns: int = hidden) -> Linear:
            weight = torch.cat([take(f"{name}.weight", rows, columns) for name in names])
            bias = torch.cat([take(f"{name}.bias", rows) for name in names])
            int8 = self.runtime.precision == "int8"
            return make_linear(weight, bias, int8=int8, exact=self.runtime.exact)

        self._words = take("embeddings.word_embeddings.weight")
        self._positions = take("embeddings.position_embeddings.weight")
        self._type = take("embeddings.token_type_embeddings.weight")[0]
        self._first_norm = norm("embeddings.LayerNorm")
        for index in range(layers):
            at = f"encoder.layer.{index}"
            self._layers.append(
                Layer(
                    qkv=linear(*(f"{at}.attention.self.{part}" for part in ("query", "key", "value"))),
                    out=linear(f"{at}.attention.output.dense"),
                    after_attention=norm(f"{at}.attention.output.LayerNorm"),
                    inner=linear(f"{at}.intermediate.dense", rows=self.ffn),
                    outer=linear(f"{at}.output.dense", columns=self.ffn),
                    after_mlp=norm(f"{at}.output.LayerNorm"),
                )
            )

    def _load_head(self, checkpoint: Checkpoint) -> tuple[Tensor, float] | None:
        path = checkpoint.folder / SPARSE_HEAD
        if not path.is_file():
            return None
        try:
            stored = import_torch().load(path, map_location="cpu", weights_only=True)
            weight, bias = stored["weight"].float().reshape(self.state_size), float(stored["bias"])
        except Exception as error:
            raise ModelLoadError(f"cannot read the sparse head {path}: {error}; pull it again") from error
        return weight.to(self.runtime.device), bias

    def run(self, windows: Sequence[Window]) -> Floats:
        torch = import_torch()
        pack = make_pack([(window.ids, None, 0) for window in windows], self.runtime.device)
        states = self._forward(pack)
        result = np.zeros((len(windows), self.hidden_size), np.float32)
        spans = [(segment.start, segment.end) for segment in pack.segments]
        pooled = [pool_rows(states[a:b], window) for (a, b), window in zip(spans, windows, strict=True)]
        result[:, : self.state_size] = torch.stack(pooled).cpu().numpy()
        if self._head is not None:
            weight, bias = self._head
            # A product and a sum per row: a matrix-vector product would choose its blocking by the rows.
            lexical = ((states.float() * weight).sum(dim=1) + bias).relu().cpu().numpy()
            for row, (start, end), window in zip(result, spans, windows, strict=True):
                write_slots(row[self.state_size :], window.ids, lexical[start:end], self._silent)
        return result

    def close(self) -> None:
        if self._layers:
            self._layers = []
            del self._words, self._positions
            super().close()

    def _forward(self, pack: Pack) -> Tensor:
        """(rows, state_size) states of the last layer."""
        attend = self._plan_attention(pack)
        rows, width = len(pack.ids), self.state_size // self.heads
        x = self._words[pack.ids] + self._positions[pack.positions + self._first_position] + self._type
        x = self._first_norm(x)
        for layer in self._layers:
            q, k, v = layer.qkv(x).reshape(rows, 3, self.heads, width).unbind(1)
            context = attend(q, k, v).reshape(rows, self.state_size)
            x = layer.after_attention(layer.out(context, plus=x))
            x = layer.after_mlp(layer.outer(layer.inner(x, activation="gelu"), plus=x))
        return x

    def _plan_attention(self, pack: Pack) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        torch = import_torch()
        spans = [(segment.start, segment.end) for segment in pack.segments]
        if self._varlen is None:

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                out: Tensor = torch.zeros_like(q)
                for start, end in spans:
                    out[start:end] = attend_one(q[start:end], k[start:end], v[start:end], causal=False)
                return out

            return attend

        if pack.tokens < len(pack.ids):  # the padding rows are a sequence of their own
            spans.append((pack.tokens, len(pack.ids)))
        lengths = [end - start for start, end in spans]
        sums, longest, run = cumulative(lengths, self.runtime.device), max(lengths), self._varlen

        def attend_varlen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            out: Tensor = run(q, k, v, sums, sums, longest, longest, False)
            return out

        return attend_varlen


def write_slots(slots: Floats, ids: Any, weights: Floats, silent: Any) -> None:
    """Put each id's largest weight above zero into ``slots``: (2 * SLOTS,) ids, then weights."""
    heard = (weights > 0) & ~np.isin(ids, silent)
    found, place = np.unique(ids[heard], return_inverse=True)
    largest = np.zeros(len(found), np.float32)
    np.maximum.at(largest, place, weights[heard])
    order = np.lexsort((found, -largest))[:SLOTS]
    slots[: len(order)] = found[order]
    slots[SLOTS : SLOTS + len(order)] = largest[order]


def read_slots(slots: Floats) -> tuple[Any, Floats]:
    """(n,) int32 ids and (n,) weights above zero, heaviest first, from the tail of a row."""
    count = int((slots[SLOTS:] > 0).sum())
    return slots[:count].astype(np.int32), slots[SLOTS : SLOTS + count].copy()
