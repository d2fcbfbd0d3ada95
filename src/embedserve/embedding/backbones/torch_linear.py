"""Matrix products whose every row is the same, bit for bit, whatever rows run beside it.

Ordinary matrix products choose their blocking by the number of rows, so the same text gets other last bits
in another batch. Three kinds here do not, each proven at load by :func:`rows_agree`:

* :class:`PackedLinear`: oneDNN with weights laid out once (CPU, fp32 and bf16); rows in multiples of 16;
* :class:`TiledLinear`: any library's product, always called with the same number of rows;
* :class:`Int8Linear`: integer sums are exact in any order (Dettmers et al. 2022's per-token and per-channel
  scales, without outliers kept apart).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from embedserve.embedding.checkpoint import import_torch

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["none", "gelu"]

ROWS = 16
"""Packs are padded to a multiple of this many rows."""
TILE_CPU = 64
TILE_CUDA = 512
BLOCK = 256
"""Rows that one int8 step keeps in cache."""


class Linear(Protocol):
    def __call__(self, x: Tensor, *, activation: Activation = "none", plus: Tensor | None = None) -> Tensor:
        """(rows, in) to (rows, out): activation(x @ W.T + b) + plus."""
        ...


class TiledLinear:
    """The framework's own product, in tiles of ``tile`` rows (0: all rows at once)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, tile: int) -> None:
        self._weight, self._bias, self._tile = weight, bias, tile

    def __call__(self, x: Tensor, *, activation: Activation = "none", plus: Tensor | None = None) -> Tensor:
        torch = import_torch()
        linear = torch.nn.functional.linear
        if not self._tile:
            out = linear(x, self._weight, self._bias)
        else:
            rows, tile = len(x), self._tile
            if spare := -rows % tile:
                x = torch.cat([x, x.new_zeros(spare, x.shape[1])])
            tiles = [linear(x[at : at + tile], self._weight, self._bias) for at in range(0, len(x), tile)]
            out = (tiles[0] if len(tiles) == 1 else torch.cat(tiles))[:rows]
        if activation == "gelu":
            out = torch.nn.functional.gelu(out)
        return out if plus is None else out + plus


class PackedLinear:
    """oneDNN's product over weights laid out in its own order, with the epilogue fused (CPU only)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        torch = import_torch()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), BLOCK)
        self._bias = bias

    def __call__(self, x: Tensor, *, activation: Activation = "none", plus: Tensor | None = None) -> Tensor:
        run = import_torch().ops.mkldnn._linear_pointwise
        if plus is not None and activation == "none":
            fused: Tensor = run(x, plus.contiguous(), self._weight, self._bias, "add")
            return fused
        out: Tensor = run(x, self._weight, self._bias, activation, [], "none" if activation == "gelu" else "")
        return out if plus is None else out + plus


class Int8Linear:
    """Weights as int8 with a scale a channel, activations quantised on the way in with a scale a token."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        torch = import_torch()
        weight = weight.float()
        self._scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        self._weight = (weight / self._scale[:, None]).round().to(torch.int8).t().contiguous()
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor, *, activation: Activation = "none", plus: Tensor | None = None) -> Tensor:
        torch = import_torch()
        out = x.new_empty(len(x), self._weight.shape[1])
        for at in range(0, len(x), BLOCK):
            block = x[at : at + BLOCK]
            largest = torch.maximum(block.amax(1, keepdim=True), -block.amin(1, keepdim=True))
            scale = largest.float().clamp_min(1e-12) / 127
            quantised = (block / scale).round_().to(torch.int8)
            product = torch._int_mm(quantised, self._weight).float().mul_(scale).mul_(self._scale)
            out[at : at + BLOCK] = product if self._bias is None else product.add_(self._bias)
        if activation == "gelu":
            out = torch.nn.functional.gelu(out)
        return out if plus is None else out + plus


_probed: dict[tuple[object, ...], bool] = {}


def rows_agree(linear: Linear, shape: tuple[int, ...], like: Tensor) -> bool:
    """Whether rows keep their bits among other numbers of rows (multiples of ``ROWS``) and at other places.

    Args:
        linear: the product to try.
        shape: (out, in) of its weights; the answer is remembered per shape, arithmetic and device.
        like: a tensor on the device and in the arithmetic of the input.
    """
    torch = import_torch()
    key = (type(linear), shape, like.dtype, like.device.type, torch.get_num_threads())
    if key not in _probed:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(1024, shape[1], generator=generator).to(device=like.device, dtype=like.dtype)
        whole = linear(x)
        pieces = ((0, 16), (16, 48), (48, 112), (37, 53), (5, 133), (0, 240), (100, 612))
        _probed[key] = all(torch.equal(linear(x[a:b].contiguous()), whole[a:b]) for a, b in pieces)
    return _probed[key]


def make_linear(weight: Tensor, bias: Tensor | None, *, int8: bool = False, exact: bool = True) -> Linear:
    """The fastest product for these weights that keeps rows independent.

    Args:
        weight: (out, in) on the device and in the arithmetic to run in.
        bias: (out,) or None.
        int8: quantise the weights.
        exact: False gives up bit-equality between batches for the framework's own speed.
    """
    torch = import_torch()
    if int8:
        return Int8Linear(weight, bias)
    if not exact:
        return TiledLinear(weight, bias, 0)
    on_cpu = weight.device.type == "cpu"
    if on_cpu and torch.backends.mkldnn.is_available():
        try:
            packed = PackedLinear(weight, bias)
            if rows_agree(packed, tuple(weight.shape), weight):
                return packed
        except (AttributeError, RuntimeError, NotImplementedError):
            pass  # a build or processor without this operator: tiles serve
    return TiledLinear(weight, bias, TILE_CPU if on_cpu else TILE_CUDA)
