"""The library: types, shapes, errors, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import embedserve
from embedserve import Embedder, Embedding, Embeddings, EmbedserveError, SparseVector

pytestmark = pytest.mark.quick


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, embedserve; heavy = {'numpy', 'torch', 'starlette', 'sqlalchemy', 'pydantic', 'uvicorn',"
        "'typer', 'rich', 'orjson', 'transformers', 'pyarrow'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_names_are_there() -> None:
    for name in embedserve.__all__:
        assert getattr(embedserve, name)
    with pytest.raises(AttributeError):
        embedserve.nothing  # noqa: B018


def test_the_types_and_shapes_of_an_answer(embedder: Embedder) -> None:
    answer = embedder.embed(["one", "two", "three"], dimension=512, output_type="dense&sparse")
    assert isinstance(answer, Embeddings)
    assert len(answer) == 3
    assert (answer.dense.shape, answer.dense.dtype) == ((3, 512), np.float32)
    assert np.array_equal(np.asarray(answer), answer.dense)
    assert answer.tokens == sum(item.tokens for item in answer) > 0
    assert isinstance(answer[0], Embedding)
    assert isinstance(answer[1:], Embeddings)
    sparse = answer.sparse[0]
    assert isinstance(sparse, SparseVector)
    assert len(sparse.indices) == len(sparse.values) == len(sparse.tokens)
    assert (np.diff(sparse.values) <= 0).all()


def test_one_string_is_a_list_of_one(embedder: Embedder) -> None:
    assert np.array_equal(embedder.embed("one").dense, embedder.embed(["one"]).dense)


def test_no_texts_no_vectors(embedder: Embedder) -> None:
    assert len(embedder.embed([])) == 0
    assert embedder.embed([]).dense.shape[0] == 0


def test_what_was_not_asked_for_is_not_there(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match='ask for output_type="sparse"'):
        _ = embedder.embed("one").sparse
    sparse = embedder.embed("one", output_type="sparse")
    assert sparse[0].dense is None
    with pytest.raises(ValueError, match='output_type="dense"'):
        _ = sparse.dense


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"texts": ""}, "Range of input length should be [1, 8192]"),
        ({"texts": ["fine", " "]}, "Range of input length should be [1, 8192]"),
        ({"texts": "x", "dimension": 0}, "dimension is 0, it should be in [1, 2048]"),
        ({"texts": "x", "dimension": 2049}, "dimension is 2049"),
        ({"texts": "x", "text_type": "title"}, "text_type is 'title'"),
        ({"texts": "x", "output_type": "both"}, "output_type is 'both'"),
        ({"texts": "x", "instruct": "word " * 400}, "shorten it to one sentence"),
    ],
    ids=["empty", "blank", "no dimension", "too many dimensions", "text type", "output type", "instruct"],
)
def test_refusals_name_value_and_remedy(embedder: Embedder, asked: dict[str, object], words: str) -> None:
    with pytest.raises(EmbedserveError) as caught:
        embedder.embed(**asked)  # type: ignore[arg-type]
    assert words in caught.value.message
