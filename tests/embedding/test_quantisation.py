import numpy as np
import pytest

from embedserve.embedding.quantisation import (
    binary_scores,
    from_int8,
    int8_scores,
    rotate,
    to_binary,
    to_int8,
)

pytestmark = pytest.mark.quick


@pytest.fixture
def vectors():
    rows = np.random.default_rng(3).normal(size=(40, 768)).astype(np.float32)
    rows[:, 384:] *= 0.1
    rows[20:] = rows[:20] + 0.4 * rows[20:]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_int8_keeps_cosines(vectors):
    codes, scales = to_int8(vectors)
    assert codes.dtype == np.int8
    assert np.abs(from_int8(codes, scales) @ vectors.T - vectors @ vectors.T).max() < 0.005
    assert np.abs(int8_scores(codes, codes) - vectors @ vectors.T).max() < 0.005


def test_a_zero_vector_stays_zero():
    codes, scales = to_int8(np.zeros((1, 8), np.float32))
    assert not codes.any()
    assert np.isfinite(from_int8(codes, scales)).all()


@pytest.mark.parametrize("size", [64, 768, 1000])
def test_rotation_keeps_cosines_and_spreads_a_single_component(size):
    rows = np.eye(size, dtype=np.float32)[:5]
    turned = rotate(rows)
    assert np.allclose(turned @ turned.T, np.eye(5), atol=1e-4)
    assert np.abs(turned).max() < 0.6


def test_sign_bits_estimate_cosines(vectors):
    bits = to_binary(vectors)
    assert bits.shape == (40, 96)
    estimates = binary_scores(bits, bits, 768)
    assert np.allclose(np.diag(estimates), 1)
    assert np.corrcoef(estimates.ravel(), (vectors @ vectors.T).ravel())[0, 1] > 0.95


def test_sizes_that_are_not_whole_bytes(vectors):
    bits = to_binary(vectors[:, :100])
    assert bits.shape == (40, 13)
    assert np.allclose(np.diag(binary_scores(bits, bits, 100)), 1)
