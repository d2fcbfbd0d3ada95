"""Where embedserve's engine spends its time: a row a stage of the network, measured around each kernel."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.native import NativeBackbone
from embedserve.embedding.backbones.native.library import load_library
from embedserve.embedding.weights import BundledWeights

MAXIMUM = 32
HIDDEN, FFN, LAYERS = 384, 1536, 12
OPERATIONS = {  # a token, all layers, multiply and add counted apart
    "linear q, k, v": 2 * LAYERS * 3 * HIDDEN * HIDDEN,
    "linear output": 2 * LAYERS * HIDDEN * HIDDEN,
    "linear in + GELU": 2 * LAYERS * HIDDEN * FFN,
    "linear out": 2 * LAYERS * HIDDEN * FFN,
}


class StageClock:
    """The bundled model with each kernel timed by the processor's clock, on one thread."""

    def __init__(self) -> None:
        self._core = core = load_library()
        plain, core.model_create = core.model_create, core.profile_model_create
        try:
            self._backbone = NativeBackbone.from_bundled(BundledWeights(), threads=1)
        finally:
            core.model_create = plain

    def _read(self) -> dict[str, int]:
        names = (ctypes.c_char_p * MAXIMUM)()
        ticks, calls = (ctypes.c_uint64 * MAXIMUM)(), (ctypes.c_uint64 * MAXIMUM)()
        count = self._core.profile_read(names, ticks, calls)
        return {(names[i] or b"").decode(): ticks[i] for i in range(count)}

    def measure(self, ids: Sequence[Sequence[int]], repeats: int) -> dict[str, float]:
        """Seconds by stage, each in the run that did it fastest; ``other`` is what no kernel took."""
        windows = [Window(np.array(i, np.int32), np.ones(len(i), np.float32)) for i in ids]
        self._backbone.encode(windows)
        best: dict[str, float] = {}
        for _ in range(repeats):
            self._read()
            began, seconds = self._core.profile_clock(), time.perf_counter()
            self._backbone.encode(windows)
            ticks, seconds = self._core.profile_clock() - began, time.perf_counter() - seconds
            found = {stage: value * seconds / ticks for stage, value in self._read().items()}
            found["other"] = seconds - sum(found.values())
            best = {stage: min(value, best.get(stage, value)) for stage, value in found.items()}
        return best


def render_profile(shapes: dict[str, list[list[int]]], peak: float | None, repeats: int = 20) -> str:
    """Markdown: microseconds a token by stage and shape; of linear layers the share of the int8 peak, too."""
    clock = StageClock()
    lines = [
        "| µs a token (share of the time; of int8 peak) | " + " | ".join(shapes) + " |",
        "|---|" + "---:|" * len(shapes),
    ]
    columns = []
    for ids in shapes.values():
        tokens = sum(map(len, ids))
        each = {stage: seconds / tokens for stage, seconds in clock.measure(ids, repeats).items()}
        total = sum(each.values())
        each["all"] = total
        work = OPERATIONS | {"all": sum(OPERATIONS.values())}
        columns.append(
            {
                stage: f"{seconds * 1e6:.1f} ({seconds / total:.0%}"
                + (f"; {work[stage] / seconds / (peak * 1e9):.0%})" if peak and stage in work else ")")
                for stage, seconds in each.items()
            }
        )
    for stage in columns[0]:
        lines.append(f"| {stage} | " + " | ".join(column[stage] for column in columns) + " |")
    return "\n".join(lines)
