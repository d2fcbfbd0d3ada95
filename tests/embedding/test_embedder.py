"""The pipeline as a library user meets it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedserve import Embedder, EmbedserveError

pytestmark = pytest.mark.quick

LONG = "The committee met again on Tuesday to talk about the budget. " * 120


@pytest.mark.parametrize("dimension", [64, 128, 256, 384, 512, 768, 1024, 1536, 2048])
def test_every_dimension_has_unit_length(embedder: Embedder, dimension: int) -> None:
    vectors = embedder.embed(["What is AI?", "人工智能"], dimension=dimension).dense
    assert vectors.shape == (2, dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_smaller_dimensions_are_the_start_of_larger_ones(embedder: Embedder) -> None:
    text = "Dimensions nest like dolls"
    vectors = {d: embedder.embed(text, dimension=d).dense[0] for d in (64, 256, 384, 1024, 2048)}
    for small, large in ((64, 256), (256, 384), (384, 1024), (384, 2048)):
        start = vectors[large][:small]
        assert np.allclose(start / np.linalg.norm(start), vectors[small], atol=1e-6)


def test_a_text_is_the_same_alone_and_in_any_batch(embedder: Embedder) -> None:
    texts = ["short", "衣服的质量杠杠的", LONG, "a little longer than the first one", "short"]
    together = embedder.embed(texts, output_type="dense&sparse")
    for i, text in enumerate(texts):
        alone = embedder.embed(text, output_type="dense&sparse")
        assert np.array_equal(alone.dense[0], together.dense[i])
        assert np.array_equal(alone.sparse[0].values, together.sparse[i].values)
        assert alone.sparse[0].tokens == together.sparse[i].tokens


def test_roles_and_instructions_change_the_vector(embedder: Embedder) -> None:
    def vector(**options: str) -> np.ndarray:
        return embedder.embed("jaguar", **options).dense[0]  # type: ignore[arg-type]

    unsaid, query, document = vector(), vector(text_type="query"), vector(text_type="document")
    instructed = vector(text_type="query", instruct="Retrieve texts about cars")
    assert np.array_equal(unsaid, query)
    assert not np.array_equal(query, document)
    assert not np.array_equal(query, instructed)
    assert np.array_equal(vector(text_type="document", instruct="Retrieve texts about cars"), document)


def test_long_texts_are_read_to_the_end(embedder: Embedder) -> None:
    one = embedder.embed(LONG + "It was about whales.")
    other = embedder.embed(LONG + "It was about taxes.")
    assert one[0].tokens > 1000
    assert not np.array_equal(one.dense, other.dense)


@pytest.mark.parametrize(("truncate", "kept"), [("end", "start"), ("start", "end")])
def test_truncate_cuts_and_says_how_much(embedder: Embedder, truncate: str, kept: str) -> None:
    text = "start " + "word " * 8300 + "end"
    with pytest.raises(EmbedserveError, match=r"Range of input length should be \[1, 8192\]"):
        embedder.embed(text)
    (row,) = embedder.embed(text, truncate=truncate, output_type="sparse")  # type: ignore[arg-type]
    assert row.tokens == 8192
    assert row.cut > 0
    assert row.sparse is not None
    assert kept in row.sparse.tokens


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_texts_are_refused(embedder: Embedder, text: str) -> None:
    with pytest.raises(EmbedserveError, match="Range of input length"):
        embedder.embed(["fine", text])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dimension": 0}, "dimension is 0, it should be in"),
        ({"dimension": 4096}, "dimension is 4096, it should be in"),
        ({"text_type": "passage"}, "text_type is 'passage', it should be 'query' or 'document'"),
        ({"output_type": "both"}, "output_type is 'both', it should be"),
        ({"instruct": "very long " * 200, "text_type": "query"}, "instruct has .* shorten it"),
    ],
)
def test_bad_values_are_named_with_limit_and_remedy(
    embedder: Embedder, options: dict[str, object], told: str
) -> None:
    with pytest.raises(EmbedserveError, match=told):
        embedder.embed("text", **options)  # type: ignore[arg-type]


def test_results_behave_like_a_list_and_like_a_matrix(embedder: Embedder) -> None:
    both = embedder.embed(["one", "two", "three"], output_type="dense&sparse", dimension=64)
    assert len(both) == 3
    assert both[1].sparse is not None
    assert "two" in both[1].sparse.tokens
    assert np.asarray(both[:2]).shape == (2, 64)
    assert both.tokens == sum(row.tokens for row in both)
    with pytest.raises(ValueError, match="output_type"):
        _ = embedder.embed("one").sparse
    with pytest.raises(ValueError, match="output_type"):
        _ = embedder.embed("one", output_type="sparse").dense


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_whatever_the_text_the_vector_is_finite_and_unit(embedder: Embedder, text: str) -> None:
    if not len(embedder.tokenizer.encode(text)):
        with pytest.raises(EmbedserveError, match="Range of input length"):
            embedder.embed(text)
        return
    vector = embedder.embed(text).dense[0]
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_decoding_ids_gives_back_the_text(embedder: Embedder) -> None:
    ids = embedder.tokenizer.encode("The quality of the clothes").tolist()
    assert embedder.decode([0, *ids, 2]).strip() == "The quality of the clothes"
    with pytest.raises(EmbedserveError, match="outside the served model's vocabulary: highest 999999"):
        embedder.decode([5, 999_999])
