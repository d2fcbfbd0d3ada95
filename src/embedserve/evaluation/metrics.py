"""Scores of rankings, similarities and frozen vectors; all in 0..1 (Spearman in -1..1), higher is better.

Sources: Järvelin & Kekäläinen 2002 (nDCG, gain 2^grade - 1); MTEB (Muennighoff et al. 2023) for the choice
of measures: logistic regression on frozen vectors, V-measure of k-means.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.errors import EmbedserveError

CUT = 10
CLUSTER_SEEDS = 5


def import_sklearn() -> Any:
    """scikit-learn, or how to get it."""
    try:
        import sklearn
    except ImportError:
        raise EmbedserveError(
            "this needs scikit-learn and scipy: run `pip install 'embedserve[eval]'`"
        ) from None
    return sklearn


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], cut: int = CUT) -> float:
    """Discounted gain of the first ``cut`` documents over the best possible one."""
    discounts = 1 / np.log2(np.arange(2, cut + 2))
    found = np.array([2.0 ** grades.get(document, 0) - 1 for document in ranking[:cut]])
    best = np.array(sorted((2.0**grade - 1 for grade in grades.values()), reverse=True)[:cut])
    ideal = float(best @ discounts[: len(best)])
    return float(found @ discounts[: len(found)]) / ideal if ideal else 0.0


def first_hit(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """1 when the first document is relevant, else 0 (``recall@1`` in the suites)."""
    return float(bool(ranking) and grades.get(ranking[0], 0) > 0)


def spearman(gold: Sequence[float], scores: Sequence[float]) -> float:
    """Rank correlation; 0 where it is undefined."""
    import_sklearn()
    from scipy.stats import spearmanr

    value = float(spearmanr(gold, scores).statistic)
    return 0.0 if np.isnan(value) else value


def average_precision(gold: Sequence[float], scores: Sequence[float]) -> float:
    import_sklearn()
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(gold, scores))


def fit_classifier(vectors: Floats, labels: Sequence[Any]) -> Callable[[Floats], NDArray[Any]]:
    """Logistic regression on frozen vectors (n, d): a function from (m, d) to m predicted labels."""
    import_sklearn()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predict: Callable[[Floats], NDArray[Any]] = (
            LogisticRegression(max_iter=200, C=10).fit(vectors, np.array(labels)).predict
        )
    return predict


def v_measure(vectors: Floats, labels: Sequence[Any]) -> float:
    """Of k-means with as many clusters as labels, mean over fixed seeds."""
    import_sklearn()
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    count = len(set(labels))
    runs = [
        KMeans(count, n_init=1, random_state=seed, max_iter=100).fit_predict(vectors)
        for seed in range(CLUSTER_SEEDS)
    ]
    return float(np.mean([v_measure_score(labels, clusters) for clusters in runs]))
