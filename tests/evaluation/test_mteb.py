"""The mteb wrapper under the real package, on tasks that bring their own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedserve.errors import EmbedserveError
from embedserve.evaluation.mteb import MtebModel, find_tasks, run_tasks

mteb = pytest.importorskip("mteb", minversion="2.0", reason="needs mteb 2: pip install 'embedserve[mteb]'")
datasets = pytest.importorskip("datasets")

QUESTIONS = {"q0": "why does dough grow", "q1": "what causes tides", "q2": "how long do cats sleep"}
ANSWERS = {
    "d0": "Bread rises because yeast makes gas.",
    "d1": "The moon moves the tides.",
    "d2": "Cats sleep most of the day.",
    "d3": "Ships are built of steel.",
}
PAIRS = [
    ("A cat sleeps on the sofa.", "A cat is asleep on a couch.", 4.6),
    ("A cat sleeps on the sofa.", "The cat eats its food.", 2.0),
    ("A cat sleeps on the sofa.", "Shares fell sharply on Monday.", 0.1),
    ("He plays the guitar.", "A man is playing a guitar.", 4.8),
    ("He plays the guitar.", "A man is cutting bread.", 1.0),
]


def describe(name: str, kind: str, score: str) -> Any:
    return mteb.TaskMetadata(
        name=name,
        description="A few sentences.",
        dataset={"path": "none/none", "revision": "1"},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class SmallSTS(mteb.abstasks.AbsTaskSTS):  # type: ignore[misc, name-defined]
    metadata = describe("SmallSTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, **_: Any) -> None:
        left, right, scores = zip(*PAIRS, strict=True)
        rows = {"sentence1": left, "sentence2": right, "score": scores}
        self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))
        self.data_loaded = True


class SmallRetrieval(mteb.abstasks.AbsTaskRetrieval):  # type: ignore[misc, name-defined]
    metadata = describe("SmallRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, **_: Any) -> None:
        def rows(texts: dict[str, str], **more: str) -> Any:
            return datasets.Dataset.from_list(
                [{"id": name, "text": text, **more} for name, text in texts.items()]
            )

        relevant = {f"q{i}": {f"d{i}": 1} for i in range(3)}
        self.dataset = {
            "default": {
                "test": {
                    "corpus": rows(ANSWERS, title=""),
                    "queries": rows(QUESTIONS),
                    "relevant_docs": relevant,
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


@pytest.fixture(scope="module")
def model() -> MtebModel:
    return MtebModel(dimension=256, instructs={"SmallRetrieval": "Given a question, find its answer"})


@pytest.mark.parametrize("task", [SmallSTS, SmallRetrieval])
def test_mteb_runs_its_tasks_on_the_wrapper(model: MtebModel, task: type, tmp_path: Path) -> None:
    found = mteb.evaluate(model, task(), cache=None, show_progress_bar=False, co2_tracker=False)
    assert found.model_name == "embedserve/ladder-256"
    (result,) = found.task_results
    assert result.get_score() > 0.8


def test_mteb_knows_what_it_measures(model: MtebModel) -> None:
    meta = model.mteb_model_meta
    assert isinstance(meta, mteb.models.ModelMeta)
    assert (meta.embed_dim, meta.max_tokens) == (256, 8192)


def test_eval_reports_mteb_tasks_as_its_own() -> None:
    run = run_tasks([SmallSTS()], [64, 256], "ladder")
    assert run.systems == ["dense@64", "dense@256"]
    assert run.group_means("dense@256")["sts"] > 80
    assert run.languages == {"SmallSTS": {"default": "eng-Latn"}}
    with pytest.raises(EmbedserveError, match="NoSuchTask"):
        find_tasks(["NoSuchTask"])
