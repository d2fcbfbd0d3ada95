"""Short packs as CUDA graphs: the launches of a whole forward recorded once and replayed.

A query of twenty tokens keeps a GPU busy for less time than Python needs to launch its few hundred kernels.
A graph has fixed shapes, so packs are padded to one of ``SIZES`` rows and ``SEQUENCES`` sequences; the
padding rows form a sequence of their own, the missing sequences are empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from embedserve.embedding.backbones.torch_packing import Pack
from embedserve.embedding.checkpoint import import_torch

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (16, 32, 64, 128, 256, 512)
SEQUENCES = 32
WARM_UPS = 3

Replay = Callable[[], Any]


def record(run: Callable[[], Any]) -> Replay:
    """Record ``run`` as a CUDA graph; the replay returns the same output tensor, filled anew."""
    torch = import_torch()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):  # libraries choose kernels and allocate workspaces on first calls
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Any:
        graph.replay()
        return out

    return replay


class GraphRunner:
    """Runs packs that fit through graphs, one a size, recorded when first needed.

    Args:
        compute: (ids, positions, attend) to (rows, hidden) states.
        varlen: variable-length attention, see :func:`torch_packing.find_varlen`.
        device: of all tensors.
        record: for tests; turns a call into its replay.
    """

    def __init__(
        self,
        compute: Callable[..., Tensor],
        varlen: Any,
        device: str,
        *,
        record: Callable[[Callable[[], Any]], Replay] = record,
    ) -> None:
        self._compute, self._varlen, self._device, self._record = compute, varlen, device, record
        self._recorded: dict[int, tuple[Tensor, Tensor, Tensor, Replay]] = {}

    def fits(self, pack: Pack) -> bool:
        """Short, few sequences, and none that follows a kept prefix."""
        small = len(pack.ids) <= SIZES[-1] and len(pack.segments) < SEQUENCES
        return small and all(segment.prefix is None for segment in pack.segments)

    def run(self, pack: Pack) -> Tensor:
        """(rows, hidden) states of the pack's rows, in memory of their own."""
        torch = import_torch()
        size = next(size for size in SIZES if size >= len(pack.ids))
        if size not in self._recorded:
            self._recorded[size] = self._prepare(size)
        ids, positions, sums, replay = self._recorded[size]
        rows = len(pack.ids)
        ids.zero_()
        positions.zero_()
        ids[:rows] = pack.ids
        positions[:rows] = pack.positions
        ends = [segment.end for segment in pack.segments]
        filled = np.array([0, *ends] + [size] * (SEQUENCES - len(ends)), np.int32)
        sums.copy_(torch.from_numpy(filled))
        states: Tensor = replay()[:rows].clone()
        return states

    def _prepare(self, size: int) -> tuple[Tensor, Tensor, Tensor, Replay]:
        torch = import_torch()
        ids = torch.zeros(size, dtype=torch.int64, device=self._device)
        positions = torch.zeros_like(ids)
        sums = torch.full((SEQUENCES + 1,), size, dtype=torch.int32, device=self._device)
        sums[0] = 0

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Any:
            return self._varlen(q, k, v.contiguous(), sums, sums, size, size, True)

        return ids, positions, sums, self._record(lambda: self._compute(ids, positions, attend))
