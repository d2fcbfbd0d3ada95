"""Runs a suite against a model and keeps the scores.

A *system* is one way to score: ``dense@512``, ``sparse``, ``dense&sparse@512``, ``bm25``. Dense systems run
on every task, the others on retrieval. A task's score is the mean over its subsets, times 100.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.dense import Role
from embedserve.embedding.hybrid import add_coverage, median_entries, sparse_scores
from embedserve.embedding.sparse import SparseVector
from embedserve.evaluation import metrics
from embedserve.evaluation.bm25 import BM25
from embedserve.evaluation.models import MeasuredModel, Vectors, batches
from embedserve.evaluation.suites import Rows, Task

Indices = NDArray[np.intp]
ScoreBlock = Callable[[Indices, Indices], Floats]
"""Rows of queries and of documents to their (queries, documents) scores."""


@dataclass(frozen=True, slots=True)
class Score:
    """One system on one task: 0..100, by subset."""

    score: float
    subsets: dict[str, float]


@dataclass(frozen=True, slots=True)
class Systems:
    """What to measure beside the dense vectors at these dimensions."""

    dimensions: Sequence[int]
    sparse: bool = True
    bm25: bool = False
    instruct: bool = True
    """Send the instruction of queries that carry one."""


class Progress:
    """How many texts are done; the default says nothing."""

    def start(self, task: str, texts: int) -> None: ...
    def advance(self, texts: int) -> None: ...


def run_task(
    task: Task, model: MeasuredModel | None, systems: Systems, progress: Progress | None = None
) -> dict[str, Score]:
    """Every system on one task. Without a model only ``bm25`` can run."""
    progress = progress or Progress()
    if task.type == "retrieval":
        return _run_retrieval(task, model, systems, progress)
    if model is None:
        return {}
    if task.type in ("sts", "pair"):
        return _run_pairs(task, model, systems, progress)
    if task.type == "classification":
        return _run_classification(task, model, systems, progress)
    return _run_clustering(task, model, systems, progress)


def embed_all(
    model: MeasuredModel,
    texts: Sequence[str],
    role: Role,
    dimensions: Sequence[int],
    progress: Progress,
    instruct: str | None = None,
) -> Vectors:
    """Vectors of n texts in their order; equal texts are embedded once, lengths beside lengths."""
    distinct = sorted(dict.fromkeys(texts), key=len)
    place = {text: i for i, text in enumerate(distinct)}
    dense: dict[int, list[Floats]] = defaultdict(list)
    sparse: list[SparseVector] = []
    for batch in batches(distinct, model.batch):
        vectors = model.embed(batch, role, instruct, dimensions)
        for dimension, rows in vectors.dense.items():
            dense[dimension].append(rows)
        sparse.extend(vectors.sparse or [])
        progress.advance(len(batch))
    order = [place[text] for text in texts]
    return Vectors(
        {dimension: np.concatenate(parts)[order] for dimension, parts in dense.items()},
        [sparse[i] for i in order] if sparse else None,
    )


def _run_retrieval(
    task: Task, model: MeasuredModel | None, systems: Systems, progress: Progress
) -> dict[str, Score]:
    queries, corpus = task.rows["queries"], task.rows["corpus"]
    query_texts, texts = [row["text"] for row in queries], [row["text"] for row in corpus]
    scorers: dict[str, ScoreBlock] = {}
    if systems.bm25:
        scorers["bm25"] = lambda rows, columns: _bm25_block(query_texts, texts, rows, columns)
    if model is not None:
        progress.start(task.name, len(set(texts)) + len(set(query_texts)))
        documents = embed_all(model, texts, "document", systems.dimensions, progress)
        asked = _embed_queries(model, queries, systems, progress)
        scorers |= _vector_scorers(asked, documents, systems)
    return {name: score_retrieval(task, block) for name, block in scorers.items()}


def _vector_scorers(queries: Vectors, documents: Vectors, systems: Systems) -> dict[str, ScoreBlock]:
    scorers: dict[str, ScoreBlock] = {}

    def cosines(dimension: int) -> ScoreBlock:
        q, d = queries.dense[dimension], documents.dense[dimension]
        return lambda rows, columns: q[rows] @ d[columns].T

    for dimension in systems.dimensions:
        scorers[f"dense@{dimension}"] = cosines(dimension)
    q_sparse, d_sparse = queries.sparse, documents.sparse
    if not systems.sparse or q_sparse is None or d_sparse is None:
        return scorers

    def lexical(rows: Indices, columns: Indices) -> Floats:
        return sparse_scores([q_sparse[i] for i in rows], [d_sparse[i] for i in columns])

    known: dict[bytes, tuple[Floats, float]] = {}

    def coverage(rows: Indices, columns: Indices) -> tuple[Floats, float]:
        """The lexical part of the hybrid score, the same at every dimension."""
        key = rows.tobytes() + columns.tobytes()
        if key not in known:
            found = [d_sparse[i] for i in columns]
            covered = sparse_scores([q_sparse[i] for i in rows], found, collection=True)
            known[key] = covered, median_entries(found)
        return known[key]

    def both(dimension: int) -> ScoreBlock:
        dense = cosines(dimension)
        return lambda rows, columns: add_coverage(dense(rows, columns), *coverage(rows, columns))

    scorers["sparse"] = lexical
    for dimension in systems.dimensions:
        scorers[f"dense&sparse@{dimension}"] = both(dimension)
    return scorers


def _embed_queries(model: MeasuredModel, queries: Rows, systems: Systems, progress: Progress) -> Vectors:
    groups: dict[str | None, list[int]] = defaultdict(list)
    for i, row in enumerate(queries):
        groups[row.get("instruct") if systems.instruct else None].append(i)
    dense = {dimension: np.empty((0, 0), np.float32) for dimension in systems.dimensions}
    sparse: list[SparseVector | None] = [None] * len(queries)
    for instruct, rows in groups.items():
        part = embed_all(
            model, [queries[i]["text"] for i in rows], "query", systems.dimensions, progress, instruct
        )
        for dimension, matrix in part.dense.items():
            if not dense[dimension].size:
                dense[dimension] = np.empty((len(queries), matrix.shape[1]), np.float32)
            dense[dimension][rows] = matrix
        for i, vector in zip(rows, part.sparse or [], strict=False):
            sparse[i] = vector
    known = [vector for vector in sparse if vector is not None]
    return Vectors(dense, known if len(known) == len(queries) else None)


def score_retrieval(task: Task, block: ScoreBlock) -> Score:
    """A retrieval task under any scoring of its queries (rows) against its corpus (columns)."""
    queries, corpus = task.rows["queries"], task.rows["corpus"]
    by_pool: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(corpus):
        by_pool[row["pool"]].append(i)
    searches: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(queries):
        pools = row["pool"] if isinstance(row["pool"], list) else [row["pool"]]
        searches[tuple(pools)].append(i)
    measure = metrics.ndcg if task.metric.startswith("ndcg") else metrics.first_hit
    found: dict[str, list[float]] = defaultdict(list)
    for names, rows in searches.items():
        columns = [i for name in names for i in by_pool[name]]
        scores = block(np.array(rows), np.array(columns))
        for i, row in zip(rows, scores, strict=True):
            query = queries[i]
            order = _rank(row, query["id"], [corpus[j]["id"] for j in columns])
            found[query["subset"]].append(measure(order, task.relevant.get(query["id"], {})))
    return _mean({subset: float(np.mean(values)) for subset, values in found.items()})


def _rank(scores: Floats, query: str, documents: Sequence[str], depth: int = 20) -> list[str]:
    """The best documents; equal scores (frequent in lexical systems) in an order that favours nobody."""
    lowest = np.partition(scores, -depth)[-depth] if len(scores) > depth else -np.inf
    near: list[int] = np.flatnonzero(scores >= lowest).tolist()
    ties = [hashlib.sha1((query + documents[i]).encode()).hexdigest()[:8] for i in near]
    order = sorted(range(len(near)), key=lambda k: (-scores[near[k]], ties[k]))
    return [documents[near[k]] for k in order[:depth]]


def _bm25_block(queries: Sequence[str], texts: Sequence[str], rows: Indices, columns: Indices) -> Floats:
    index = BM25([texts[i] for i in columns])
    return np.stack([index.scores(queries[i]) for i in rows.tolist()])


def _dense_scores(systems: Systems, score: Callable[[int], Score]) -> dict[str, Score]:
    return {f"dense@{dimension}": score(dimension) for dimension in systems.dimensions}


def _run_pairs(task: Task, model: MeasuredModel, systems: Systems, progress: Progress) -> dict[str, Score]:
    pairs = task.rows["pairs"]
    texts = [row["s1"] for row in pairs] + [row["s2"] for row in pairs]
    progress.start(task.name, len(set(texts)))
    vectors = embed_all(model, texts, "query", systems.dimensions, progress).dense
    gold = [row["score"] for row in pairs]
    measure = metrics.spearman if task.type == "sts" else metrics.average_precision

    def score(dimension: int) -> Score:
        left, right = np.split(vectors[dimension], 2)
        cosines = (left * right).sum(axis=1)
        return _mean(
            {
                subset: measure([gold[i] for i in rows], [float(cosines[i]) for i in rows])
                for subset, rows in _by_subset(pairs).items()
            }
        )

    return _dense_scores(systems, score)


def _run_classification(
    task: Task, model: MeasuredModel, systems: Systems, progress: Progress
) -> dict[str, Score]:
    train, test = task.rows["train"], task.rows["test"]
    texts = [row["text"] for row in train + test]
    progress.start(task.name, len(set(texts)))
    vectors = embed_all(model, texts, "query", systems.dimensions, progress).dense
    train_rows, test_rows = _by_subset(train), _by_subset(test)

    def score(dimension: int) -> Score:
        matrix = vectors[dimension]
        classifiers: dict[str, Callable[[Floats], NDArray[Any]]] = {}
        scores = {}
        for subset, rows in test_rows.items():
            trained_on = task.train_subset or subset
            if trained_on not in classifiers:
                shown = train_rows[trained_on]
                labels = [train[i]["label"] for i in shown]
                classifiers[trained_on] = metrics.fit_classifier(matrix[shown], labels)
            found = classifiers[trained_on](matrix[[len(train) + i for i in rows]])
            scores[subset] = float(np.mean(found == np.array([test[i]["label"] for i in rows])))
        return _mean(scores)

    return _dense_scores(systems, score)


def _run_clustering(
    task: Task, model: MeasuredModel, systems: Systems, progress: Progress
) -> dict[str, Score]:
    items = task.rows["items"]
    texts = [row["text"] for row in items]
    progress.start(task.name, len(set(texts)))
    vectors = embed_all(model, texts, "query", systems.dimensions, progress).dense
    return _dense_scores(
        systems,
        lambda dimension: _mean(
            {
                subset: metrics.v_measure(vectors[dimension][rows], [items[i]["label"] for i in rows])
                for subset, rows in _by_subset(items).items()
            }
        ),
    )


def _by_subset(rows: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        found[row["subset"]].append(i)
    return dict(found)


def _mean(subsets: dict[str, float]) -> Score:
    rounded = {subset: round(100 * value, 2) for subset, value in subsets.items()}
    return Score(round(100 * float(np.mean(list(subsets.values()))), 2), rounded)
