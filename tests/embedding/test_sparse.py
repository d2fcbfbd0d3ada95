import numpy as np
import pytest

from embedserve.embedding.sparse import LexicalWeights, normalise_terms
from embedserve.embedding.tokenizer import UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def lexical() -> LexicalWeights:
    return LexicalWeights(UnigramTokenizer(BundledWeights(verify=False)))


def test_the_character_of_the_published_example_keeps_its_id(lexical):
    vector = lexical.sparse(lexical.terms("风急天高猿啸哀，渚清沙白鸟飞回"), "query")
    found = dict(zip(vector.tokens, vector.indices.tolist(), strict=True))
    assert found["风"] == 7149


def test_values_fall_and_stay_in_range(lexical):
    vector = lexical.sparse(lexical.terms("the quality of the clothes is excellent, the colour too"), "query")
    assert (np.diff(vector.values) <= 0).all()
    assert vector.values[0] < 1
    assert vector.values[-1] > 0
    assert np.array_equal(vector.values, np.round(vector.values, 4))
    assert len(set(vector.indices.tolist())) == len(vector.indices) == len(vector.tokens)


def test_function_words_weigh_less_than_content_words(lexical):
    vector = lexical.sparse(lexical.terms("What is the capital of France?"), "query")
    value = dict(zip(vector.tokens, vector.values.tolist(), strict=True))
    assert value["capital"] > 2 * value["the"]


@pytest.mark.parametrize("text", ["", "   ", "!?…", "\u200b\u0007", "。，"])
def test_text_without_terms_gives_an_empty_vector(lexical, text):
    terms = lexical.terms(text)
    assert terms.total == 0
    assert len(lexical.sparse(terms, "document").indices) == 0
    assert not lexical.sketch(terms, 640).any()


def test_identifiers_and_case_fold_to_the_same_terms(lexical):
    assert normalise_terms("getUserName") == "get user name"
    assert normalise_terms("ERR_CONN-42") == "err conn 42"
    left, right = lexical.terms("HTTPServer snake_case"), lexical.terms("http server SNAKE case")
    assert np.array_equal(left.ids, right.ids)


def test_sketch_is_a_cosine_of_terms(lexical):
    same = lexical.sketch(lexical.terms("a text about rivers and dams"), 640)
    near = lexical.sketch(lexical.terms("rivers, dams and lakes"), 640)
    far = lexical.sketch(lexical.terms("quarterly bank earnings"), 640)
    assert np.linalg.norm(same) == pytest.approx(1, abs=1e-6)
    assert same @ near > 0.4 > 0.2 > abs(same @ far)


def test_terms_of_texts_together_are_those_of_each_alone(lexical: LexicalWeights) -> None:
    texts = ["dams and rivers, rivers and dams", "???", "风急天高猿啸哀", "", "dams"]
    for text, together in zip(texts, lexical.terms_all(texts), strict=True):
        alone = lexical.terms(text)
        assert together.ids.tolist() == alone.ids.tolist() == sorted(set(alone.ids.tolist()))
        assert together.counts.tolist() == alone.counts.tolist()
        assert together.total == alone.total == alone.counts.sum()
