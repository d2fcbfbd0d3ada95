"""Sequences one after another without padding: attention per sequence, token budgets, out-of-memory.

Shared by every PyTorch backbone. A :class:`Pack` is what the layers see: all tokens of some windows as rows
of one matrix. Attention is the only step where rows of one sequence meet, and it is called per sequence (CPU)
or through variable-length kernels (CUDA: PyTorch's ``varlen_attn``, or the flash-attn package).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.torch_linear import ROWS
from embedserve.embedding.checkpoint import import_torch
from embedserve.errors import EmbedserveError, ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "int8"]

CPU_BUDGET = 2048
"""Tokens a pack on the CPU: enough to fill the cores, small enough to stay near the caches."""
QUERY_BLOCK = 512
"""Rows of attention computed at once where queries follow a cached prefix (bounds the mask's memory)."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which arithmetic to run.

    Attributes:
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:1``.
        precision: ``auto`` in PyTorch: bf16 where the processor multiplies it, else fp32. On a CPU Qwen3
            runs at int8 in the native engine before it comes to that (``models/opening.py``).
        exact: bit-equal vectors in any batch; False lets the GPU's libraries choose blocking by batch size.
    """

    device: str = "auto"
    precision: Precision = "auto"
    exact: bool = True

    def resolve(self) -> Runtime:
        """The same with nothing left to ``auto``.

        Raises:
            ModelLoadError: a device that this machine or this build of PyTorch does not have.
        """
        torch = import_torch()
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelLoadError(
                f"device {device!r} was asked for, but PyTorch {torch.__version__} sees no CUDA device: "
                "install a CUDA build (pip install 'embedserve[cuda]') and its driver, or use device 'cpu'"
            )
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if device != "cpu" or multiplies_bf16() else "fp32"
        return replace(self, device=device, precision=precision)


def sees_cuda() -> bool:
    """Whether PyTorch is installed and has a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    return bool(import_torch().cuda.is_available())


def multiplies_bf16() -> bool:
    """Whether this CPU has bf16 products; without them bf16 is emulated and slower than fp32."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def multiplies_tiles() -> bool:
    """Whether this CPU has a unit for whole tiles of bf16 (AMX)."""
    return "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return set(flags.split())


@dataclass(slots=True)
class Segment:
    """Rows ``start:end`` of a pack: one sequence, or one after a prefix whose keys and values are kept."""

    start: int
    end: int
    prefix: Any = None
    """A ``KeptPrefix`` of the decoder; None for a whole sequence."""
    offset: int = 0
    """Position of the first row within its sequence."""


@dataclass(slots=True)
class Pack:
    """Token ids, positions and segments; rows are padded to a multiple of ``ROWS`` with id 0."""

    ids: Tensor
    """(rows,) int64"""
    positions: Tensor
    """(rows,) int64, from 0 in each sequence"""
    segments: list[Segment]

    @property
    def tokens(self) -> int:
        return self.segments[-1].end


def make_pack(pieces: Sequence[tuple[np.ndarray[Any, Any], Any, int]], device: str) -> Pack:
    """A pack of (ids, prefix, offset) pieces, in this order."""
    torch = import_torch()
    segments: list[Segment] = []
    at = 0
    for ids, prefix, offset in pieces:
        segments.append(Segment(at, at + len(ids), prefix, offset))
        at += len(ids)
    rows = -(-at // ROWS) * ROWS
    flat, positions = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for (ids, _, offset), segment in zip(pieces, segments, strict=True):
        flat[segment.start : segment.end] = ids
        positions[segment.start : segment.end] = np.arange(offset, offset + len(ids))
    return Pack(torch.from_numpy(flat).to(device), torch.from_numpy(positions).to(device), segments)


def cut_packs(windows: Sequence[Window], budget: int) -> Iterator[list[int]]:
    """Indices of windows, in order, in groups of at most ``budget`` tokens (or a single longer window)."""
    group: list[int] = []
    tokens = 0
    for index, window in enumerate(windows):
        if group and tokens + len(window.ids) > budget:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += len(window.ids)
    if group:
        yield group


def attend_one(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Attention of one sequence.

    Args:
        q: (n, heads, width).
        k, v: (m, kv_heads, width), m >= n: with ``causal`` the queries are the last n positions of m.

    Returns:
        (n, heads, width)
    """
    torch = import_torch()
    attention = torch.nn.functional.scaled_dot_product_attention
    grouped = q.shape[1] != k.shape[1]
    queries, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
    ahead = len(k) - len(q)
    if not causal or not ahead:
        out = attention(queries, keys, values, is_causal=causal, enable_gqa=grouped)
        return out[0].transpose(0, 1)
    blocks = []
    for start in range(0, len(q), QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, len(q))
        seen = ahead + end
        mask = torch.ones(end - start, seen, dtype=torch.bool, device=q.device).tril(ahead + start)
        block = attention(
            queries[:, :, start:end],
            keys[:, :, :seen],
            values[:, :, :seen],
            attn_mask=mask,
            enable_gqa=grouped,
        )
        blocks.append(block[0].transpose(0, 1))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def find_varlen(device: str) -> Any:
    """A variable-length attention for this CUDA device as ``f(q, k, v, cu_q, cu_k, max_q, max_k, causal)``.

    PyTorch's own where the build has it, else the flash-attn package, else None (attention per sequence).
    Both align a causal mask to the last key, as queries after a prefix need it.
    """
    if not device.startswith("cuda"):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn

        def run(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, causal: bool) -> Any:
            window = (-1, 0) if causal else (-1, -1)
            grouped = q.shape[1] != k.shape[1]
            return varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, window_size=window, enable_gqa=grouped)

        return run
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None

    def run_flash(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, causal: bool) -> Any:
        return flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, causal=causal)

    return run_flash


def cumulative(lengths: Sequence[int], device: str) -> Tensor:
    """(n + 1,) int32 sums of lengths from 0, as variable-length kernels take them."""
    torch = import_torch()
    sums: Tensor = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
    return sums


def pool_rows(states: Tensor, window: Window, first: int = 0) -> Tensor:
    """(hidden,) weighted mean of a window's token states.

    Args:
        states: (n - first, hidden) states of the window's tokens from ``first`` on.
        window: its weights on the first ``first`` tokens are zero.
    """
    torch = import_torch()
    (chosen,) = np.nonzero(window.weights)
    if len(chosen) == 1:
        return states[int(chosen[0]) - first].float()
    weights = torch.from_numpy(window.weights[first:]).to(states.device)
    pooled: Tensor = weights @ states.float() / weights.sum()
    return pooled


class TorchBackbone:
    """What every PyTorch backbone shares: packs under a token budget, and life after out-of-memory.

    Subclasses fill in ``run``.
    """

    name: str
    hidden_size: int
    window_size: int

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.budget = CPU_BUDGET
        """Tokens a pack; on CUDA from free memory (:meth:`measure_budget`)."""

    def run(self, windows: Sequence[Window]) -> Floats:
        """(len(windows), hidden_size) pooled states of one pack."""
        raise NotImplementedError

    def encode(self, windows: Sequence[Window]) -> Floats:
        """See :class:`embedserve.embedding.backbones.base.Backbone`."""
        torch = import_torch()
        pooled = np.zeros((len(windows), self.hidden_size), np.float32)
        with torch.inference_mode():
            for group in cut_packs(windows, self.budget):
                pooled[group] = self._run_within_memory([windows[index] for index in group])
        return pooled

    def _run_within_memory(self, windows: list[Window]) -> Floats:
        """Run a pack; when the device has no room for it, halve it until it fits, and stay healthy."""
        torch = import_torch()
        try:
            return self.run(windows)
        except torch.OutOfMemoryError as error:
            tokens = sum(len(window.ids) for window in windows)
            if len(windows) == 1:
                message = f"a text of {tokens} tokens does not fit in the memory of {self.runtime.device}"
                raise EmbedserveError(
                    f"{message}: send a shorter text or serve a smaller model", status=413
                ) from error.with_traceback(None)
        # Outside the handler: the traceback kept the failed pack's tensors alive until here.
        if self.runtime.device != "cpu":
            torch.cuda.empty_cache()
        self.budget = max(1, min(self.budget, tokens // 2))
        middle = len(windows) // 2
        return np.concatenate(
            [self._run_within_memory(half) for half in (windows[:middle], windows[middle:])]
        )

    def measure_budget(self, bytes_per_token: int) -> None:
        """On CUDA: as many tokens a pack as fit in 60 % of the free memory, at most 65,536."""
        if self.runtime.device == "cpu":
            return
        torch = import_torch()
        free, _ = torch.cuda.mem_get_info(torch.device(self.runtime.device))
        self.budget = int(min(65_536, max(512, 0.6 * free / bytes_per_token)))

    def close(self) -> None:
        """Subclasses drop their tensors; the CUDA cache goes back to the driver."""
        if self.runtime.device != "cpu":
            import_torch().cuda.empty_cache()
