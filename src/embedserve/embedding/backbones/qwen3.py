"""Qwen3 decoders as encoders (Qwen3-Embedding 0.6B, 4B, 8B), packed, in PyTorch.

Source: Qwen Team 2025 (Qwen3: RMSNorm before each half, norms on queries and keys, rotary positions, grouped
queries, SwiGLU) as laid down in the hub's ``config.json`` and ``model*.safetensors``.

Queries share their instruction, so its keys and values are worth keeping: a window that begins with
``Instruct`` is cut where its ``Query`` begins, the part before runs once as a sequence of its own, and later
windows attend to what was kept. Attention is causal, so the result is that of the whole sequence; the cut
depends on the window alone, never on its neighbours, so the bits are the same with or without a kept prefix.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedserve.embedding.backbones.base import Floats, Ids, Window
from embedserve.embedding.backbones.instructions import Prefix, cut_at
from embedserve.embedding.backbones.qwen3_shape import Shape
from embedserve.embedding.backbones.torch_graphs import GraphRunner
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

if TYPE_CHECKING:
    from torch import Tensor

KEPT_PREFIXES = 16


@dataclass(slots=True)
class Layer:
    before_attention: Tensor
    before_mlp: Tensor
    query_norm: Tensor
    key_norm: Tensor
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


@dataclass(slots=True)
class KeptPrefix:
    """Keys and values of an instruction's tokens, layer by layer, each (n, kv_heads, head_width)."""

    length: int
    segment: int | None = None
    """Its segment in the pack that computes it; None once the values are kept."""
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class Qwen3Backbone(TorchBackbone):
    """See :class:`embedserve.embedding.backbones.base.Backbone`.

    Args:
        checkpoint: a folder of model type ``qwen3``.
        runtime: device and arithmetic.
        prefix: (first, marker): windows that begin with token ``first`` are cut before the first token
            ``marker``; None never cuts.
        window_size: longest sequence; the checkpoint's own limit when omitted.

    Raises:
        ModelLoadError: PyTorch missing, or a checkpoint that does not fit its configuration.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime | None = None,
        *,
        prefix: Prefix | None = None,
        window_size: int | None = None,
    ) -> None:
        super().__init__((runtime or Runtime()).resolve())
        torch = import_torch()
        self.shape = shape = Shape.read(checkpoint)
        precision, device = self.runtime.precision, self.runtime.device
        self.name = f"qwen3-torch-{device.partition(':')[0]}-{precision}"
        self.hidden_size = shape.hidden
        limit = int(checkpoint.setting("max_position_embeddings"))
        self.window_size = min(window_size or limit, limit)
        self._prefix = prefix
        self._kept: OrderedDict[bytes, KeptPrefix] = OrderedDict()
        self.dtype = torch.bfloat16 if precision == "bf16" or device != "cpu" else torch.float32
        if precision == "fp32":
            self.dtype = torch.float32
        with torch.inference_mode():
            self._load(checkpoint.state("model."))
        self._varlen = find_varlen(device) if self.dtype is not torch.float32 else None
        self._graphs = None
        if self._varlen is not None and hasattr(torch.cuda, "CUDAGraph"):
            self._graphs = GraphRunner(self.compute, self._varlen, device)
        width = shape.hidden * 6 + 2 * shape.ffn + (shape.heads + 2 * shape.kv_heads) * shape.head_width
        self.measure_budget(width * self.dtype.itemsize)

    def _load(self, state: State) -> None:
        torch, shape, device, dtype = import_torch(), self.shape, self.runtime.device, self.dtype
        q_width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width

        def take(name: str, *sizes: int) -> Tensor:
            return state.take(name, *sizes).to(device=device, dtype=dtype)

        def linear(*names: str, sizes: Sequence[tuple[int, int]]) -> Linear:
            weights = [take(f"{name}.weight", *size) for name, size in zip(names, sizes, strict=True)]
            weight = weights[0] if len(weights) == 1 else torch.cat(weights)
            return make_linear(weight, None, int8=self.runtime.precision == "int8", exact=self.runtime.exact)

        self._embeddings = take("embed_tokens.weight")
        self._last_norm = take("norm.weight", shape.hidden)
        self._layers = []
        for index in range(shape.layers):
            at = f"layers.{index}"
            attention, mlp = f"{at}.self_attn", f"{at}.mlp"
            self._layers.append(
                Layer(
                    before_attention=take(f"{at}.input_layernorm.weight", shape.hidden),
                    before_mlp=take(f"{at}.post_attention_layernorm.weight", shape.hidden),
                    query_norm=take(f"{attention}.q_norm.weight", shape.head_width),
                    key_norm=take(f"{attention}.k_norm.weight", shape.head_width),
                    qkv=linear(
                        *(f"{attention}.{part}_proj" for part in "qkv"),
                        sizes=[(q_width, shape.hidden), *[(kv_width, shape.hidden)] * 2],
                    ),
                    out=linear(f"{attention}.o_proj", sizes=[(shape.hidden, q_width)]),
                    gate_up=linear(
                        f"{mlp}.gate_proj", f"{mlp}.up_proj", sizes=[(shape.ffn, shape.hidden)] * 2
                    ),
                    down=linear(f"{mlp}.down_proj", sizes=[(shape.hidden, shape.ffn)]),
                )
            )
        exponents = torch.arange(0, shape.head_width, 2, dtype=torch.int64).float() / shape.head_width
        self._frequencies = (1.0 / shape.rope_theta**exponents).to(device)

    def run(self, windows: Sequence[Window]) -> Floats:
        pieces, firsts = self._plan(windows)
        pack = make_pack(pieces, self.runtime.device)
        states = self._forward(pack)
        own = pack.segments[len(pack.segments) - len(windows) :]
        pooled = [
            pool_rows(states[segment.start : segment.end], window, first)
            for segment, window, first in zip(own, windows, firsts, strict=True)
        ]
        result: Floats = import_torch().stack(pooled).cpu().numpy()
        return result

    def close(self) -> None:
        if not self._layers:
            return
        self._layers, self._graphs = [], None
        self._kept.clear()
        del self._embeddings, self._last_norm
        super().close()

    def cut_at(self, window: Window) -> int:
        """See :func:`embedserve.embedding.backbones.instructions.cut_at`."""
        return cut_at(window, self._prefix)

    def _plan(self, windows: Sequence[Window]) -> tuple[list[tuple[Ids, KeptPrefix | None, int]], list[int]]:
        """Pieces to compute: new prefixes first, then each window from where its prefix ends."""
        new: list[tuple[Ids, KeptPrefix | None, int]] = []
        pieces: list[tuple[Ids, KeptPrefix | None, int]] = []
        firsts = [self.cut_at(window) for window in windows]
        for window, first in zip(windows, firsts, strict=True):
            kept = None
            if first:
                ids = window.ids[:first]
                key = ids.tobytes()
                kept = self._kept.get(key)
                if kept is None:
                    kept = self._kept[key] = KeptPrefix(first, segment=len(new))
                    new.append((ids, None, 0))
                self._kept.move_to_end(key)
            pieces.append((window.ids[first:], kept, first))
        return new + pieces, firsts

    def _forward(self, pack: Pack) -> Tensor:
        """(rows, hidden) states after the last norm; keeps the prefixes it computed."""
        if self._graphs is not None and self._graphs.fits(pack):
            return self._graphs.run(pack)
        fresh = {
            kept.segment: kept
            for segment in pack.segments
            if (kept := segment.prefix) is not None and kept.segment is not None
        }
        spans = {at: (pack.segments[at].start, pack.segments[at].end) for at in fresh}

        def keep(k: Tensor, v: Tensor) -> None:
            for at, kept in fresh.items():
                start, end = spans[at]
                kept.keys.append(k[start:end].clone())
                kept.values.append(v[start:end].clone())

        try:
            states = self.compute(pack.ids, pack.positions, self._plan_attention(pack), keep)
        except BaseException:
            for key in [key for key, kept in self._kept.items() if kept.segment is not None]:
                del self._kept[key]
            raise
        for kept in fresh.values():
            kept.segment = None
        while len(self._kept) > KEPT_PREFIXES:
            self._kept.popitem(last=False)
        return states

    def compute(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor, int], Tensor],
        keep: Callable[[Tensor, Tensor], None] = lambda k, v: None,
    ) -> Tensor:
        """The network over rows of tokens, (rows, hidden) after the last norm.

        Args:
            ids, positions: (rows,) int64.
            attend: (q, k, v, layer) to (rows, heads, head_width); the only step where rows meet.
            keep: shown the keys and values of each layer before they are attended to.
        """
        norm, shape = import_torch().nn.functional.rms_norm, self.shape
        rotate = self._rotation(positions)
        x = self._embeddings[ids]
        rows = len(x)
        q_width, kv_width = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        for index, layer in enumerate(self._layers):
            h = norm(x, (shape.hidden,), layer.before_attention, shape.eps)
            q, k, v = layer.qkv(h).split([q_width, kv_width, kv_width], dim=1)
            q = norm(q.reshape(rows, shape.heads, -1), (shape.head_width,), layer.query_norm, shape.eps)
            k = norm(k.reshape(rows, shape.kv_heads, -1), (shape.head_width,), layer.key_norm, shape.eps)
            q, k, v = rotate(q), rotate(k), v.reshape(rows, shape.kv_heads, -1)
            keep(k, v)
            x = layer.out(attend(q, k, v, index).reshape(rows, q_width), plus=x)
            h = norm(x, (shape.hidden,), layer.before_mlp, shape.eps)
            gate, up = layer.gate_up(h).split(shape.ffn, dim=1)
            x = layer.down(swiglu(gate, up), plus=x)
        states: Tensor = norm(x, (shape.hidden,), self._last_norm, shape.eps)
        return states

    def _rotation(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        torch = import_torch()
        angles = positions[:, None].float() * self._frequencies
        cos, sin = (f(angles).to(self.dtype)[:, None, :] for f in (torch.cos, torch.sin))

        def rotate(x: Tensor) -> Tensor:
            left, right = x.chunk(2, dim=-1)
            turned: Tensor = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
            return turned

        return rotate

    def _plan_attention(self, pack: Pack) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
        """How queries meet keys in this pack: (q, k, v, layer) to (rows, heads, head_width)."""
        if self._varlen is not None:
            return self._plan_varlen(pack)
        torch = import_torch()

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            out = torch.zeros_like(q)
            for segment in pack.segments:
                here = slice(segment.start, segment.end)
                keys, values, kept = k[here], v[here], segment.prefix
                if kept:
                    keys = torch.cat([kept.keys[layer], keys])
                    values = torch.cat([kept.values[layer], values])
                out[here] = attend_one(q[here], keys, values, causal=True)
            return out

        return attend

    def _plan_varlen(self, pack: Pack) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
        """One kernel call over all segments; keys of kept prefixes are laid before their segments' own."""
        torch, device = import_torch(), self.runtime.device
        spans = [(segment.start, segment.end, segment.prefix) for segment in pack.segments]
        if pack.tokens < len(pack.ids):  # the padding rows are a sequence of their own
            spans.append((pack.tokens, len(pack.ids), None))
        q_lengths = [end - start for start, end, _ in spans]
        k_lengths = [end - start + (kept.length if kept else 0) for start, end, kept in spans]
        cu_q, cu_k = cumulative(q_lengths, device), cumulative(k_lengths, device)
        longest_q, longest_k = max(q_lengths), max(k_lengths)
        plain = q_lengths == k_lengths
        run: Any = self._varlen

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            if not plain:
                keys, values = [], []
                for start, end, kept in spans:
                    if kept:
                        keys.append(kept.keys[layer])
                        values.append(kept.values[layer])
                    keys.append(k[start:end])
                    values.append(v[start:end])
                k, v = torch.cat(keys), torch.cat(values)
            out: Tensor = run(q, k.contiguous(), v.contiguous(), cu_q, cu_k, longest_q, longest_k, True)
            return out

        return attend


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate * sigmoid(gate) * up, from steps whose bits do not depend on where in a buffer a value lies.

    The framework's own silu computes the last few values of each thread's share by other code.
    """
    out = gate.neg()
    out.exp_().add_(1)
    import_torch().div(gate, out, out=out)
    return out.mul_(up)
