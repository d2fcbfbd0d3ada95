"""The library: types, shapes, errors, and that importing it costs nothing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import embedserve
from embedserve import Embedder, Embedding, Embeddings, EmbedserveError, RowError, SparseVector
from embedserve.embedding.backbones.dummy import DummyBackbone

pytestmark = pytest.mark.quick


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, embedserve; heavy = {'numpy', 'torch', 'starlette', 'sqlalchemy', 'pydantic', 'uvicorn',"
        "'typer', 'rich', 'orjson', 'transformers', 'pyarrow'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_names_are_there() -> None:
    assert set(embedserve.__all__) <= set(dir(embedserve))
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
        ({"texts": "x", "dimension": 1.5}, "dimension is 1.5, it should be a whole number"),
        ({"texts": "x", "truncate": "middle"}, "truncate is 'middle'"),
        ({"texts": "x", "instruct": 5}, "instruct is 5, it should be a string"),
        ({"texts": "x", "instruct": "word " * 400}, "shorten it to one sentence"),
    ],
)
def test_refusals_name_value_and_remedy(embedder: Embedder, asked: dict[str, object], words: str) -> None:
    with pytest.raises(EmbedserveError) as caught:
        embedder.embed(**asked)  # type: ignore[arg-type]
    assert words in caught.value.message


def test_a_look_says_what_it_is(embedder: Embedder) -> None:
    answer = embedder.embed(["one word", "two"], dimension=64, output_type="dense&sparse", text_type="query")
    told = repr(answer)
    for part in ("2 texts", "(2, 64) float32", "sparse", f"{answer.tokens} tokens", "multilingual-e5-small"):
        assert part in told
    assert embedder.fingerprint in told
    assert "(64,) float32" in repr(answer[0])
    assert "word" in repr(answer.sparse[0])
    assert "float32" not in repr(embedder.embed("one", output_type="sparse"))


def test_a_slice_belongs_to_the_same_space(embedder: Embedder) -> None:
    answer = embedder.embed(["one", "two", "three"], dimension=64, text_type="document")
    part = answer[::2]
    assert part.space == answer.space
    assert (part.space.dimension, part.space.text_type) == (64, "document")
    assert part.space.fingerprint == embedder.fingerprint
    assert np.array_equal(part.dense, answer.dense[::2])
    assert embedder.embed([], dimension=64).dense.shape == (0, 64)
    assert pickle.loads(pickle.dumps(part)).dense.tobytes() == part.dense.tobytes()


def test_numpys_protocol(embedder: Embedder) -> None:
    answer = embedder.embed(["one", "two"], dimension=64)
    assert np.shares_memory(np.asarray(answer), answer.dense)
    assert not np.shares_memory(np.array(answer), answer.dense)
    assert np.asarray(answer, np.float64).dtype == np.float64
    assert np.asarray(answer[0]).shape == (64,)
    assert np.array_equal(np.stack(list(answer)), answer.dense)
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert np.shares_memory(np.asarray(answer, copy=False), answer.dense)
        with pytest.raises(ValueError, match="needs a copy"):
            np.asarray(answer, np.float16, copy=False)


def pandas_series(texts: list[str]) -> Any:
    return pytest.importorskip("pandas").Series(texts, index=range(7, 7 + len(texts)))


def arrow_chunks(texts: list[str]) -> Any:
    return pytest.importorskip("pyarrow").chunked_array([texts[:1], texts[1:]])


@pytest.mark.parametrize(
    "hold",
    [
        tuple,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: dict(enumerate(texts)).values(),
        np.array,
        lambda texts: np.array(texts, object),
        pandas_series,
        arrow_chunks,
    ],
    ids=["tuple", "iterator", "generator", "values", "array", "objects", "pandas", "arrow"],
)
def test_whatever_holds_strings(embedder: Embedder, hold: Callable[[list[str]], Any]) -> None:
    texts = ["one", "two", "drei"]
    expected = embedder.embed(texts, dimension=64).dense
    assert np.array_equal(embedder.embed(hold(texts), dimension=64).dense, expected)
    assert np.array_equal(np.stack(list(embedder.embed_iter(hold(texts), dimension=64))), expected)


def test_one_string_in_an_array_is_one_text(embedder: Embedder) -> None:
    assert len(embedder.embed(np.array("one"))) == len(embedder.embed(np.str_("one"))) == 1


class Missing:
    """As pandas' NA is called."""


Missing.__name__ = "NAType"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["fine", None], "row 1 is None, a missing text"),
        (["fine", "fine", float("nan")], "row 2 is nan, a missing text"),
        (np.array(["fine", np.nan], object), "row 1 is nan"),
        (["fine", Missing()], "row 1 is .*a missing text"),
        (["fine", b"bytes"], "row 1 is bytes: decode it"),
        ([7], "row 0 is of type int"),
        ([["nested"]], "row 0 is of type list"),
        (["fine", " "], "row 1 is blank"),
        (["fine", "x " * 8200], "row 1 has 8200 tokens: .*truncate"),
    ],
    ids=["none", "nan", "object array", "NA", "bytes", "number", "list", "blank", "long"],
)
def test_a_bad_row_is_named(embedder: Embedder, texts: Any, words: str) -> None:
    with pytest.raises(RowError, match=words) as caught:
        embedder.embed(texts, dimension=64)
    assert isinstance(caught.value, TypeError) == (caught.value.tokens is None)
    came: list[Embedding] = []
    with pytest.raises(RowError, match=words) as caught:
        came.extend(embedder.embed_iter(iter(texts), dimension=64, chunk=1))
    assert caught.value.row == len(came)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (b"one", "texts is bytes: decode it"),
        ({"one": 1}, r"choose its \.values\(\)"),
        (5, "texts is a int, it should be"),
        (None, "texts is a NoneType"),
        (type("DataFrame", (), {"columns": ["text"]})(), "choose a column"),
    ],
    ids=["bytes", "mapping", "number", "none", "table"],
)
def test_what_holds_no_texts_is_refused(embedder: Embedder, texts: Any, words: str) -> None:
    with pytest.raises(EmbedserveError, match=words):
        embedder.embed(texts)


@pytest.fixture
def light() -> Iterator[Embedder]:
    """Words are tokens, the network takes no time."""
    from light_server import WordTokenizer

    backbone = DummyBackbone(hidden_size=32)
    with Embedder(backbone=backbone, tokenizer=WordTokenizer(), recipe="plain") as embedder:
        yield embedder


def test_a_stream_is_read_little_ahead_in_order_and_closed(light: Embedder) -> None:
    taken, closed = 0, False

    def source() -> Iterator[str]:
        nonlocal taken, closed
        try:
            while True:
                taken += 1
                yield f"word{taken}"
        finally:
            closed = True

    stream = light.embed_iter(source(), dimension=32, chunk=10)
    assert taken == 0
    rows = [next(stream).dense for _ in range(100)]
    assert 100 <= taken <= 130
    for number in (0, 37, 99):
        assert np.array_equal(rows[number], light.embed(f"word{number + 1}", dimension=32).dense[0])
    stream.close()
    assert closed


def test_what_came_before_a_failure_comes_out(light: Embedder) -> None:
    def source() -> Iterator[str]:
        yield from (f"word{number}" for number in range(25))
        raise OSError("the disk is gone")

    came: list[Embedding] = []
    with pytest.raises(OSError, match="the disk is gone"):
        came.extend(light.embed_iter(source(), dimension=32, chunk=10))
    assert len(came) == 25
    came.clear()
    with pytest.raises(RowError, match="row 13 is blank"):
        came.extend(light.embed_iter(["word"] * 13 + [""] + ["word"] * 30, dimension=32, chunk=5))
    assert len(came) == 13


def test_threads_may_share_one(embedder: Embedder) -> None:
    texts = [f"text number {number} of a few" for number in range(24)]
    expected = embedder.embed(texts, dimension=64).dense
    found: dict[int, bytes] = {}

    def work(number: int) -> None:
        rows = [embedder.embed(texts[at], dimension=64).dense for at in range(number, len(texts), 8)]
        found[number] = b"".join(row.tobytes() for row in rows)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: expected[number::8].tobytes() for number in range(8)}


def test_after_its_end_it_says_so() -> None:
    with Embedder() as embedder:
        stream = embedder.embed_iter(["one"])
        embedder.embed("one")
    for call in (lambda: embedder.embed("one", output_type="sparse"), lambda: list(stream)):
        with pytest.raises(EmbedserveError, match="closed: make another"):
            call()
    embedder.close()


def test_it_goes_into_a_fork_but_not_into_a_pickle(embedder: Embedder) -> None:
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(embedder)
    if not hasattr(os, "fork"):
        return
    expected = embedder.embed("forked", dimension=64).dense.tobytes()
    # In a program of its own: this one has threads of other tests, which a fork would leave behind.
    code = (
        "import os, threading, numpy; from embedserve import Embedder; embedder = Embedder()\n"
        "busy = threading.Thread(target=lambda: embedder.embed(['word ' * 400] * 40)); busy.start()\n"
        "pid = os.fork()\n"
        "row = embedder.embed('forked', dimension=64).dense.tobytes().hex()\n"
        "if not pid: os.write(1, row.encode()); os._exit(0)\n"
        "os.waitpid(pid, 0); busy.join()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.stdout.decode() == expected.hex(), done.stderr.decode()[-2000:]


def test_a_network_that_a_fork_leaves_behind_says_so(
    light: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(EmbedserveError, match="make one in this process"):
        light.embed("one", dimension=32)


def test_a_table_of_arrow(embedder: Embedder) -> None:
    pa = pytest.importorskip("pyarrow")
    answer = embedder.embed(["one word", "two"], dimension=64, output_type="dense&sparse")
    table = answer.to_arrow()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 64)
    assert table.column_names == ["embedding", "sparse_indices", "sparse_values", "sparse_tokens", "tokens"]
    stored = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    assert stored.tobytes() == answer.dense.tobytes()
    for row, sparse in zip(table.to_pylist(), answer.sparse, strict=True):
        assert row["sparse_indices"] == sparse.indices.tolist()
        assert np.array_equal(np.array(row["sparse_values"], np.float32), sparse.values)
        assert row["sparse_tokens"] == list(sparse.tokens)
    assert json.loads(table.schema.metadata[b"embedserve"])["fingerprint"] == embedder.fingerprint
    assert answer[:0].to_arrow().schema.equals(table.schema)
    assert embedder.embed("one", output_type="sparse").to_arrow().column_names[0] == "sparse_indices"


def test_a_frame_of_pandas(embedder: Embedder) -> None:
    pd = pytest.importorskip("pandas")
    texts = pd.Series(["one word", "two"], index=["a", "b"])
    answer = embedder.embed(texts, dimension=64, output_type="dense&sparse")
    frame = answer.to_pandas(texts.index)
    assert list(frame.index) == ["a", "b"]
    assert np.stack(frame["embedding"]).tobytes() == answer.dense.tobytes()
    assert frame.loc["b", "sparse_tokens"] == list(answer.sparse[1].tokens)
    assert frame.attrs["embedserve"]["dimension"] == 64
    with pytest.raises(RowError, match="row 1 is"):
        embedder.embed(pd.Series(["one", None]))
    with pytest.raises(EmbedserveError, match="choose a column"):
        embedder.embed(pd.DataFrame({"text": ["one"]}))


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_missing_library_is_named(
    embedder: Embedder, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    answer = embedder.embed("one", dimension=64)
    with pytest.raises(EmbedserveError, match="pip install"):
        answer.to_pandas() if library == "pandas" else answer.to_arrow()
