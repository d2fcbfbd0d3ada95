"""The bundled weights are read right and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedserve.embedding.weights import BundledWeights, find_bundled
from embedserve.errors import ModelLoadError

pytestmark = pytest.mark.quick


def test_header_and_vocabulary() -> None:
    weights = BundledWeights()
    assert (weights.hidden_size, weights.layers, weights.heads, weights.ffn_size) == (384, 12, 12, 1536)
    assert (weights.vocabulary_size, weights.positions) == (250_037, 512)
    assert weights.pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert weights.pieces[7149] == "风"  # the id that the product document's own sparse example shows


def test_q4_blocks_follow_the_documented_layout() -> None:
    weights = BundledWeights()
    offset, _ = weights.tensors["emb.word"]
    row_bytes = 384 // 32 * 18
    block = weights.map[offset + 5 * row_bytes : offset + 5 * row_bytes + 18]  # row 5, its first block
    scale = np.frombuffer(block[:2], "<f2")[0].astype(np.float32)
    expected = [((block[2 + i] & 15) - 8) * scale for i in range(16)]
    expected += [((block[2 + i] >> 4) - 8) * scale for i in range(16)]
    assert np.array_equal(
        weights.q4_rows("emb.word", 384, np.array([5]))[0, :32], np.array(expected, np.float32)
    )


def test_a_damaged_file_is_refused_by_name_and_hash(tmp_path: Path) -> None:
    damaged = tmp_path / "weights.bin"
    data = bytearray(find_bundled().read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"weights\.bin have SHA-256 [0-9a-f]{64}, expected 1571fc98"):
        BundledWeights(damaged)


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(content)
    with pytest.raises(ModelLoadError):
        BundledWeights(other, verify=False)
