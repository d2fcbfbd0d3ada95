"""Fit the map of the dimension ladder that ships as ``embedding/data/ladder.npz``.

    python scripts/fit/ladder.py PATH/TO/calib

Closed form, no random numbers. Each calibration pair is a class of two members: ``within`` is the covariance
inside classes, ``total`` that of texts. Cosines at full size are taken in the metric of the shrunken inverse
of ``within``; which directions come first is decided by a discriminant analysis with its own, stronger
shrinkage. Only the matrix and two role means are stored.

Python functions are left out of the single texts, so that no function body of a code retrieval task is seen.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from calibration import Pair, Text, read_pairs, read_texts
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.ladder import LadderMap, LadderRecipe
from embedserve.embedding.sparse import LexicalWeights

Matrix = NDArray[np.float64]
LONGEST = 160
"""Tokens read of each text: what a pair has in common shows early."""
SINGLES_PER_SOURCE = 1_200
SOURCES_LEFT_OUT = ("code_py",)
PAIR_WEIGHTS = {"debian_mono": 0.1, "bible": 0.1}
"""Sources that would otherwise be most of the corpus."""
METRIC_SHRINKAGE = 0.2
ORDER_SHRINKAGE = 0.4
SINGLES_SHARE = 0.5
SHIFT_SHARE = 0.7


class Encoder:
    """Unit-length pooled states of texts, pooled as the shipped recipe pools."""

    def __init__(self) -> None:
        self._backbone, self._tokenizer = open_bundled()
        size = self._backbone.hidden_size
        nothing = LadderMap(np.eye(size, dtype=np.float32), {})
        self._recipe = LadderRecipe(LexicalWeights(self._tokenizer), nothing)

    def encode(self, texts: Sequence[str], prompt: str) -> Matrix:
        """(texts, hidden)"""
        prefix = self._tokenizer.encode(prompt)
        ends = np.array([self._tokenizer.eos_id], np.int32)
        head = np.concatenate([np.array([self._tokenizer.bos_id], np.int32), prefix])
        windows = []
        for ids in self._tokenizer.encode_batch(texts):
            whole = np.concatenate([head, ids[:LONGEST], ends]).astype(np.int32)
            windows.append(Window(whole, self._recipe.pool_weights(whole, len(head))))
        order = np.argsort([len(window.ids) for window in windows], kind="stable")
        pooled = np.empty((len(texts), self._backbone.hidden_size))
        for start in range(0, len(order), 256):
            rows = order[start : start + 256]
            pooled[rows] = self._backbone.encode([windows[i] for i in rows])
        unit: Matrix = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


def choose_singles(texts: Sequence[Text]) -> list[Text]:
    """As many texts of each source, its languages taken in turn."""
    sources: dict[str, dict[str, list[Text]]] = defaultdict(lambda: defaultdict(list))
    for text in texts:
        if text.source not in SOURCES_LEFT_OUT:
            sources[text.source][text.language].append(text)
    chosen: list[Text] = []
    for _, languages in sorted(sources.items()):
        rounds = max(map(len, languages.values()))
        turn = (
            pool[(i * 7919) % len(pool)]
            for i in range(rounds)
            for _, pool in sorted(languages.items())
            if i < len(pool)
        )
        chosen.extend(text for text, _ in zip(turn, range(SINGLES_PER_SOURCE), strict=False))
    return chosen


def power(matrix: Matrix, exponent: float) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    result: Matrix = (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
    return result


def covariance(rows: Matrix, weights: Matrix) -> Matrix:
    result: Matrix = (rows * weights[:, None]).T @ rows
    return result


def fit_map(
    queries: Matrix, documents: Matrix, singles: Matrix, pair_weights: Matrix, single_weights: Matrix
) -> LadderMap:
    """The map from unit-length pooled states; the weights of pairs and of singles each sum to 1."""
    size = queries.shape[1]
    query_mean, document_mean = pair_weights @ queries, pair_weights @ documents
    within = covariance((queries - query_mean) - (documents - document_mean), pair_weights) / 2
    paired = (
        covariance(queries - query_mean, pair_weights) + covariance(documents - document_mean, pair_weights)
    ) / 2
    query_mean = (1 - SINGLES_SHARE) * query_mean + SINGLES_SHARE * (single_weights @ singles)
    total = (1 - SINGLES_SHARE) * paired + SINGLES_SHARE * covariance(singles - query_mean, single_weights)

    def shrink(share: float) -> Matrix:
        mixed: Matrix = share * within + (1 - share) * np.trace(within) / size * np.eye(size)
        return mixed

    metric = shrink(METRIC_SHRINKAGE)
    whiten = power(metric / (np.trace(metric) / size), -0.5)
    order = power(shrink(ORDER_SHRINKAGE), -0.5)
    _, directions = np.linalg.eigh(order @ total @ order)
    # Orthonormal in the metric, spanning the discriminant directions one after another.
    rotation, _ = np.linalg.qr(np.linalg.solve(whiten, order @ directions[:, ::-1]))
    rotation *= np.sign(rotation[np.abs(rotation).argmax(axis=0), np.arange(size)])
    return LadderMap(
        (whiten @ rotation).astype(np.float32),
        {
            "query": (SHIFT_SHARE * query_mean).astype(np.float32),
            "document": (SHIFT_SHARE * document_mean).astype(np.float32),
        },
    )


def weigh_pairs(pairs: Sequence[Pair]) -> Matrix:
    weights = np.array([PAIR_WEIGHTS.get(pair.source, 1.0) for pair in pairs])
    share: Matrix = weights / weights.sum()
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("calib", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/embedserve/embedding/data/ladder.npz"))
    arguments = parser.parse_args()

    pairs = list(read_pairs(arguments.calib))
    singles = choose_singles(list(read_texts(arguments.calib)))
    encoder = Encoder()
    fitted = fit_map(
        encoder.encode([pair.query for pair in pairs], "query: "),
        encoder.encode([pair.document for pair in pairs], "passage: "),
        encoder.encode([text.text for text in singles], "query: "),
        weigh_pairs(pairs),
        np.full(len(singles), 1 / len(singles)),
    )
    np.savez_compressed(
        arguments.out,
        matrix=fitted.matrix.astype(np.float16),
        shift_query=fitted.shifts["query"],
        shift_document=fitted.shifts["document"],
    )
    stored = arguments.out.stat().st_size
    print(f"{len(pairs)} pairs, {len(singles)} single texts -> {arguments.out} ({stored} bytes)")


if __name__ == "__main__":
    main()
