"""embedserve as a model of the ``mteb`` package, with its query and document prompts.

>>> import mteb
>>> from embedserve.evaluation.mteb import MtebModel
>>> mteb.evaluate(MtebModel(dimension=1024), mteb.get_tasks(tasks=["STS12"]))  # doctest: +SKIP

``embedserve eval mteb:STS12`` does the same and reports in this package's form. Needs the ``mteb`` extra,
and the tasks' data on disk or reachable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.dense import Role
from embedserve.embedding.embedder import Embedder, Options
from embedserve.errors import EmbedserveError
from embedserve.evaluation.report import Run
from embedserve.evaluation.runner import Score

BATCH = 64
MAX_TOKENS = Options().max_tokens
GROUPS = {
    "Retrieval": "ret",
    "Reranking": "ret",
    "BitextMining": "xl",
    "STS": "sts",
    "PairClassification": "sts",
    "Classification": "cls",
    "MultilabelClassification": "cls",
    "Clustering": "clu",
}
"""mteb's types -> the groups of this package's reports; other types stand for themselves."""


class MtebModel:
    """The encoder interface of mteb 1.x (lists of texts) and 2.x (loaders of batches).

    Args:
        dimension: size of the vectors.
        recipe: ``ladder`` or ``plain``.
        instructs: task name -> instruction for its queries.
    """

    def __init__(
        self,
        dimension: int = 1024,
        recipe: Literal["ladder", "plain"] = "ladder",
        instructs: Mapping[str, str] | None = None,
    ) -> None:
        self._embedder = Embedder(recipe=recipe)
        self._recipe = recipe
        self._dimension = dimension
        self._instructs = dict(instructs or {})

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Under which name and revision mteb files the scores; None where mteb 2 is not installed."""
        try:
            from mteb.models import ModelMeta
        except ImportError:
            return None
        return ModelMeta(
            loader=None,
            name=f"embedserve/{self._recipe}-{self._dimension}",
            revision=self._embedder.fingerprint,
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=MAX_TOKENS,
            embed_dim=self._dimension,
            license="mit",
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["NumPy"],
            similarity_fn_name="cosine",
            use_instructions=True,
            training_datasets=None,
        )

    def encode(
        self,
        inputs: Iterable[Any],
        *,
        task_name: str | None = None,
        task_metadata: Any = None,
        prompt_type: Any = None,
        **_: Any,
    ) -> Floats:
        """(n, dimension) float32; ``prompt_type`` passage or document is a document, all else a query."""
        name = task_name or getattr(task_metadata, "name", None) or ""
        kind = str(getattr(prompt_type, "value", prompt_type) or "query")
        role: Role = "document" if kind in ("passage", "document") else "query"
        instruct = self._instructs.get(name) if role == "query" else None
        texts = list(_read_texts(inputs))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self._dimension), np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            vectors[rows] = self._embedder.embed(
                [texts[i] for i in rows],
                text_type=role,
                dimension=self._dimension,
                instruct=instruct,
                truncate="end",
            ).dense
        return vectors

    def similarity(self, left: Sequence[Any], right: Sequence[Any]) -> Floats:
        """Cosines: (left, right)."""
        matrix: Floats = np.asarray(left, np.float32) @ np.asarray(right, np.float32).T
        return matrix

    def similarity_pairwise(self, left: Sequence[Any], right: Sequence[Any]) -> Floats:
        """Cosines of the pairs: (n,)."""
        cosines: Floats = (np.asarray(left, np.float32) * np.asarray(right, np.float32)).sum(axis=1)
        return cosines


def find_tasks(names: Sequence[str]) -> list[Any]:
    """mteb's tasks of these names.

    Raises:
        EmbedserveError: mteb 2 is not installed, or it knows no such task.
    """
    try:
        import mteb
    except ImportError:
        raise EmbedserveError(
            "tasks of mteb need the package: run `pip install 'embedserve[mteb]'`"
        ) from None
    try:
        return list(mteb.get_tasks(tasks=list(names)))
    except KeyError as error:
        raise EmbedserveError(f"mteb has no task {error}") from None


def run_tasks(tasks: Sequence[Any], dimensions: Sequence[int], recipe: Literal["ladder", "plain"]) -> Run:
    """Tasks of mteb in the form of this package's own suites: main scores times 100, by subset.

    Args:
        tasks: as :func:`find_tasks` gives them; mteb reads or fetches their data.
        dimensions: each is a run of its own.
        recipe: see :class:`MtebModel`.
    """
    import mteb

    run = Run(f"embedserve ({recipe}) under mteb {mteb.__version__}")
    kinds = {task.metadata.name: task.metadata.type for task in tasks}
    for dimension in dimensions:
        model = MtebModel(dimension, recipe)
        for result in mteb.evaluate(model, list(tasks), cache=None).task_results:
            rows = [row for split in result.scores.values() for row in split]
            subsets = {row["hf_subset"]: round(100 * row["main_score"], 2) for row in rows}
            name = result.task_name
            score = Score(round(100 * result.get_score(), 2), subsets)
            run.tasks.setdefault(name, {})[f"dense@{dimension}"] = score
            run.groups[name] = GROUPS.get(kinds[name], kinds[name].lower())
            run.languages[name] = {row["hf_subset"]: "+".join(row["languages"]) for row in rows}
    return run


def _read_texts(inputs: Iterable[Any]) -> Iterable[str]:
    """Texts from a list of them, or from batches that hold them under ``text``; blanks get a full stop.

    The service refuses empty texts, and mteb's data has some.
    """
    for item in inputs:
        texts = item["text"] if isinstance(item, Mapping) else [item]
        for text in [texts] if isinstance(texts, str) else texts:
            yield text if text.strip() else "."
