"""Safetensors files, whole and damaged: refused in words, or tensors that lie inside the file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from embedserve.embedding.mapped_tensors import MappedTensors
from embedserve.errors import ModelLoadError


def file_of(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


SEEDS = [
    file_of(b'{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}', bytes(16)),
    file_of(b'{"a": {"dtype": "BF16", "shape": [3], "data_offsets": [2, 8]}, "__metadata__": {}}', bytes(8)),
    file_of(b'{"a": {"dtype": "F16", "shape": [-1, -2], "data_offsets": [0, 4]}}', bytes(4)),
    file_of(b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}', b""),
    file_of(b"[]", b""),
    file_of(b'{"a": []}', b""),
    file_of(b'{"a": {"dtype": [], "shape": {}, "data_offsets": "ab"}}', b""),
    b"\xff" * 8,
    b"",
]
_path = Path(tempfile.gettempdir()) / f"embedserve-fuzz-{os.getpid()}.safetensors"


def check(data: bytes) -> None:
    _path.write_bytes(data)
    try:
        tensors = MappedTensors([_path])
    except ModelLoadError as error:
        str(error).encode()
        return
    finally:
        _path.unlink()
    for tensor in tensors._tensors.values():
        assert 0 <= tensor.start <= tensor.start + tensor.values.nbytes <= len(data)
        tensor.values.tobytes()
