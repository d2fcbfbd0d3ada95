"""Suites, scores and reports on a suite of a few texts made here, with vectors whose scores are known."""

import json

import numpy as np
import pytest

from embedserve.embedding.sparse import SparseVector
from embedserve.errors import EmbedserveError
from embedserve.evaluation import metrics
from embedserve.evaluation.bm25 import BM25, split_words
from embedserve.evaluation.models import Vectors, open_model
from embedserve.evaluation.report import Run, render_markdown
from embedserve.evaluation.runner import Systems, run_task
from embedserve.evaluation.suites import list_tasks, load_task

pytestmark = pytest.mark.quick


class ByWord:
    """The vector of a text is the place of its first letter; its sparse vector likewise."""

    name = "by word"
    batch = 2

    def __init__(self):
        self.asked = []

    def embed(self, texts, role, instruct, dimensions):
        self.asked.append((tuple(texts), role, instruct))
        places = [ord((instruct or text)[0]) % 8 for text in texts]
        sparse = [SparseVector(np.array([p], np.int32), np.ones(1, np.float32), ("x",)) for p in places]
        return Vectors({size: np.eye(8, size, dtype=np.float32)[places] for size in dimensions}, sparse)


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, rows in files.items():
        if name == "meta":
            (folder / "meta.json").write_text(json.dumps(rows))
        elif name == "qrels":
            (folder / "qrels.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def suite(tmp_path):
    write(
        tmp_path / "ret_words",
        meta={"type": "retrieval", "metric": "recall@1"},
        queries=[
            {"id": "q1", "text": "apple?", "pool": "p", "subset": "en", "lang": "en"},
            {"id": "q2", "text": "bear?", "pool": ["p", "r"], "subset": "de", "lang": "de"},
        ],
        corpus=[
            {"id": "d1", "text": "apple", "pool": "p"},
            {"id": "d2", "text": "cat", "pool": "p"},
            {"id": "d3", "text": "cow", "pool": "r"},
        ],
        qrels=[("q1", "d1", 1), ("q2", "d2", 1)],
    )
    write(
        tmp_path / "instr_words",
        meta={"type": "retrieval", "metric": "ndcg@10"},
        queries=[{"id": "q", "text": "apple", "pool": "p", "subset": "s", "lang": "en", "instruct": "cats"}],
        corpus=[{"id": "d1", "text": "apple", "pool": "p"}, {"id": "d2", "text": "cat", "pool": "p"}],
        qrels=[("q", "d2", 1)],
    )
    write(
        tmp_path / "sts_words",
        meta={"type": "sts", "metric": "spearman"},
        pairs=[
            {"s1": "a", "s2": "a", "score": 5, "subset": "x"},
            {"s1": "a", "s2": "b", "score": 0, "subset": "x"},
            {"s1": "c", "s2": "c", "score": 5, "subset": "x"},
        ],
    )
    return tmp_path


def test_retrieval_searches_only_the_pool_and_averages_over_subsets(suite):
    scores = run_task(load_task(suite / "ret_words"), ByWord(), Systems([8], bm25=True))
    assert set(scores) == {"dense@8", "sparse", "dense&sparse@8", "bm25"}
    assert scores["dense@8"].subsets["en"] == 100
    assert scores["bm25"].subsets["en"] == 100


def test_instructions_are_sent_with_their_queries_or_not_at_all(suite):
    task = load_task(suite / "instr_words")
    assert run_task(task, ByWord(), Systems([8]))["dense@8"].score == 100
    assert run_task(task, ByWord(), Systems([8], instruct=False))["dense@8"].score < 100


def test_equal_texts_are_embedded_once(suite):
    model = ByWord()
    pytest.importorskip("sklearn")
    run_task(load_task(suite / "sts_words"), model, Systems([8]))
    texts = [text for batch, _, _ in model.asked for text in batch]
    assert sorted(texts) == ["a", "b", "c"]


def test_similarity_tasks_rank_pairs(suite):
    pytest.importorskip("sklearn")
    assert run_task(load_task(suite / "sts_words"), ByWord(), Systems([8]))["dense@8"].score == 100


def test_a_suite_that_is_none_says_what_is_expected(suite, tmp_path):
    with pytest.raises(EmbedserveError, match="no task matches"):
        list_tasks(suite, ["xyz_*"])
    with pytest.raises(EmbedserveError, match=r"meta\.json"):
        list_tasks(tmp_path / "nowhere")
    with pytest.raises(EmbedserveError, match="it should be ladder"):
        open_model("glove")


def test_ndcg_is_one_for_the_best_order_only():
    grades = {"a": 2, "b": 1}
    assert metrics.ndcg(["a", "b", "c"], grades) == pytest.approx(1)
    assert 0.6 < metrics.ndcg(["b", "a", "c"], grades) < 1
    assert metrics.ndcg(["c"], grades) == 0


def test_bm25_prefers_rare_words_and_pairs_unspaced_characters():
    scores = BM25(["the cat", "the dog", "the zebra crossing"]).scores("the zebra")
    assert scores.argmax() == 2
    assert split_words("東京都 x-ray") == ["東京", "京都", "x-ray", "x", "ray"]


def test_a_run_survives_the_disk_and_two_runs_compare(suite, tmp_path):
    run = Run("one")
    for folder in list_tasks(suite, ["ret_*", "instr_*"]):
        task = load_task(folder)
        run.tasks[task.name] = run_task(task, ByWord(), Systems([8]))
        run.groups[task.name] = task.group
        run.languages[task.name] = {"en": "en", "de": "de", "s": "en"}
    run.save(tmp_path / "out" / "run.json")
    again = Run.load(tmp_path / "out" / "run.json")
    assert again == run
    report = render_markdown(again, run)
    assert "| dense@8 |" in report
    assert "(+0.0)" in report
    assert again.language_means("dense@8").keys() == {"en", "de"}
    with pytest.raises(EmbedserveError, match="cannot read the run"):
        Run.load(tmp_path / "missing.json")
