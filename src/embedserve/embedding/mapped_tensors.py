"""Tensors of ``*.safetensors`` files as they lie in the file, memory-mapped, without any library.

The format (safetensors, Hugging Face 2022): eight bytes with the length of a JSON header, the header (name ->
dtype, shape, offsets), then the tensors' bytes. NumPy has no bf16, so 16-bit floats come as their bits.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedserve.errors import ModelLoadError

KINDS: dict[str, tuple[str, np.dtype[Any]]] = {
    "F32": ("fp32", np.dtype("<f4")),
    "BF16": ("bf16", np.dtype("<u2")),
    "F16": ("fp16", np.dtype("<u2")),
}
LONGEST_HEADER = 100 << 20


@dataclass(frozen=True, slots=True)
class MappedTensor:
    kind: str
    """``fp32``, ``bf16`` or ``fp16``."""
    values: NDArray[Any]
    """As stored: float32, or uint16 bits; read-only."""
    file: int
    start: int
    """Where its bytes begin in its file."""


class MappedTensors:
    """Tensors by name, over all shards.

    Args:
        files: safetensors only.
        prefix: taken off the names that carry it.

    Raises:
        ModelLoadError: a file that is torn, or holds values that are no floats.
    """

    def __init__(self, files: Iterable[Path], prefix: str = "") -> None:
        self._maps: list[mmap.mmap] = []
        self._tensors: dict[str, MappedTensor] = {}
        for path in files:
            try:
                self._read(path, prefix)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ModelLoadError(f"cannot read {path}: {error}; pull the model again") from error

    def _read(self, path: Path, prefix: str) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        length = int.from_bytes(mapped[:8], "little")
        if length > min(len(mapped) - 8, LONGEST_HEADER):
            raise ValueError(f"its header says {length} bytes, the file has {len(mapped)}")
        header = json.loads(mapped[8 : 8 + length])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in KINDS:
                raise ValueError(f"{name} holds {entry['dtype']} values, not {', '.join(KINDS)}")
            kind, dtype = KINDS[entry["dtype"]]
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            count = math.prod(entry["shape"])
            if end - start != count * dtype.itemsize or end > len(mapped) or start < 8 + length:
                raise ValueError(f"{name} does not lie where the header says")
            values = np.frombuffer(mapped, dtype, count, start).reshape(entry["shape"])
            found = MappedTensor(kind, values, len(self._maps) - 1, start)
            self._tensors[name.removeprefix(prefix)] = found

    def __getitem__(self, name: str) -> MappedTensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def release(self, names: Iterable[str]) -> None:
        """Let the system take these tensors' pages back; they are read again when they are looked at."""
        if not hasattr(mmap.mmap, "madvise"):
            return
        page = mmap.PAGESIZE
        for tensor in (self._tensors[name] for name in names):
            first = -(-tensor.start // page) * page
            size = (tensor.start + tensor.values.nbytes) // page * page - first
            if size > 0:
                self._maps[tensor.file].madvise(mmap.MADV_DONTNEED, first, size)
