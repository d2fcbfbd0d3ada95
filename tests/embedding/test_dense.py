import numpy as np
import pytest

from embedserve.embedding.backbones.base import Window
from embedserve.embedding.dense import PlainRecipe, to_unit

pytestmark = pytest.mark.quick
DIMENSIONS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048)
RECIPE = PlainRecipe()


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_plain_vector_has_the_dimension_and_unit_length(dimension):
    pooled = np.random.default_rng(0).normal(size=384).astype(np.float32)
    vector = RECIPE.finish(pooled[None], "query", dimension, [None])[0]
    assert vector.dtype == np.float32
    assert vector.shape == (dimension,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_plain_dimensions_share_their_direction():
    pooled = np.random.default_rng(1).normal(size=384).astype(np.float32)
    full = RECIPE.finish(pooled[None], "query", 2048, [None])[0]
    assert not full[384:].any()
    small = RECIPE.finish(pooled[None], "query", 64, [None])[0]
    assert np.allclose(small, to_unit(full[None, :64])[0], atol=1e-6)


@pytest.mark.parametrize("pooled", [np.zeros(384), np.full(384, np.nan), np.full(384, np.inf)])
def test_a_vector_without_direction_becomes_an_axis(pooled):
    vector = RECIPE.finish(pooled.astype(np.float32)[None], "document", 1024, [None])[0]
    assert np.linalg.norm(vector) == 1


def test_windows_count_by_their_tokens():
    windows = [Window(np.zeros(n, np.int32), np.ones(n, np.float32)) for n in (30, 10)]
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    assert RECIPE.combine(vectors, windows).tolist() == [0.75, 0.25]
