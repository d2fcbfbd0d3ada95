import numpy as np
import pytest

from embedserve import Embedder
from embedserve.embedding.backbones.base import Window
from embedserve.embedding.dense import PlainRecipe
from embedserve.embedding.ladder import (
    TAIL_DIMENSIONS,
    TAIL_WEIGHTS,
    LadderMap,
    LadderRecipe,
    open_recipe,
)
from embedserve.embedding.sparse import LexicalWeights
from embedserve.embedding.tokenizer import UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

pytestmark = pytest.mark.quick
DIMENSIONS = (1, 2, 64, 100, 128, 256, 384, 385, 512, 768, 1024, 1536, 2048)
ODD = (np.zeros(384), np.full(384, np.nan), np.full(384, np.inf), np.full(384, 1e-30), np.full(384, 1e30))


@pytest.fixture(scope="module")
def lexical() -> LexicalWeights:
    return LexicalWeights(UnigramTokenizer(BundledWeights(verify=False)))


@pytest.fixture(scope="module")
def recipe(lexical) -> LadderRecipe:
    return LadderRecipe(lexical)


@pytest.fixture
def pooled():
    return np.random.default_rng(7).normal(size=384).astype(np.float32)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("text", ["two rivers", "…"])
def test_every_dimension_is_of_unit_length(recipe, lexical, pooled, dimension, role, text):
    vector = recipe.finish(pooled[None], role, dimension, [lexical.terms(text)])[0]
    assert vector.shape == (dimension,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("odd", ODD, ids=["zero", "nan", "inf", "tiny", "huge"])
@pytest.mark.parametrize("dimension", [64, 1024])
def test_no_state_gives_a_zero_or_broken_vector(recipe, lexical, odd, dimension):
    with np.errstate(all="ignore"):
        vector = recipe.finish(odd.astype(np.float32)[None], "query", dimension, [lexical.terms("!")])[0]
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_smaller_vectors_are_the_start_of_larger_ones(recipe, lexical, pooled):
    terms = lexical.terms("dams along two rivers")
    full = recipe.finish(pooled[None], "document", 384, [terms])[0]
    for dimension in (64, 128, 256):
        start = full[:dimension] / np.linalg.norm(full[:dimension])
        assert np.allclose(recipe.finish(pooled[None], "document", dimension, [terms])[0], start, atol=1e-6)
    for dimension, share in zip(TAIL_DIMENSIONS[1:], TAIL_WEIGHTS[1:], strict=True):
        larger = recipe.finish(pooled[None], "document", dimension, [terms])[0]
        assert np.allclose(larger[:384], np.sqrt(1 - share) * full, atol=1e-6)
        assert np.linalg.norm(larger[384:]) ** 2 == pytest.approx(share, abs=1e-5)


def test_a_text_without_terms_has_an_empty_tail(recipe, lexical, pooled):
    vector = recipe.finish(pooled[None], "query", 1024, [lexical.terms("!!!")])[0]
    assert not vector[384:].any()


def test_rare_words_weigh_more_and_the_prompt_nothing(recipe, lexical):
    tokenizer = UnigramTokenizer(BundledWeights(verify=False))
    ids = np.array([0, *tokenizer.encode("query: the archaeology"), 2], np.int32)
    weights = recipe.pool_weights(ids, 4)
    assert weights[[0, 1, 2, -1]].max() < 1e-5
    words = [tokenizer.piece(int(token)) for token in ids]
    assert weights[words.index("▁the")] < weights[-2]
    assert (weights > 0).all()


def test_windows_of_a_long_text_count_by_what_they_say(recipe):
    windows = [Window(np.zeros(2, np.int32), np.array([w, w], np.float32)) for w in (3.0, 1.0)]
    assert recipe.combine(np.eye(2, dtype=np.float32), windows).tolist() == [0.75, 0.25]


def test_other_networks_get_the_plain_recipe(lexical):
    assert open_recipe("ladder", lexical, 384).name == "ladder"
    assert isinstance(open_recipe("ladder", lexical, 1024), PlainRecipe)
    with pytest.raises(ValueError, match="'ladder' or 'plain'"):
        open_recipe("stairs", lexical, 384)


def test_an_instructed_query_has_no_lexical_tail(embedder: Embedder) -> None:
    """The tail would pull back what the instruction moved (docs/quality.md)."""
    (bare,) = embedder.embed("jaguar", text_type="query").dense
    (instructed,) = embedder.embed("jaguar", text_type="query", instruct="Find cars").dense
    (document,) = embedder.embed("jaguar", text_type="document", instruct="Find cars").dense
    assert bare[384:].any()
    assert document[384:].any()
    assert not instructed[384:].any()
    assert abs(float(np.linalg.norm(instructed)) - 1) < 1e-6


def test_a_row_does_not_depend_on_the_rows_beside_it(recipe: LadderRecipe, lexical: LexicalWeights) -> None:
    random = np.random.default_rng(7)
    pooled = random.standard_normal((5, 384)).astype(np.float32)
    pooled[2] = 0
    terms = [lexical.terms(text) for text in ("two rivers", "!", "dams, dams, dams", "", "HTTPServer 2030")]
    for dimension in (64, 384, 1024, 2048):
        together = recipe.finish(pooled, "query", dimension, terms)
        for row, state, own in zip(together, pooled, terms, strict=True):
            assert row.tobytes() == recipe.finish(state[None], "query", dimension, [own])[0].tobytes()


def test_the_description_changes_with_what_was_fitted(lexical):
    one, other = (LadderRecipe(lexical, LadderMap(np.eye(4, dtype=np.float32) * n, {})) for n in (1, 2))
    assert one.describe()["fitted"] != other.describe()["fitted"]
    assert one.describe() == LadderRecipe(lexical, LadderMap(np.eye(4, dtype=np.float32), {})).describe()
