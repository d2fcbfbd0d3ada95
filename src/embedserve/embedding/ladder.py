"""The dimension ladder: useful vectors at every size from a network trained for one.

1. Tokens are pooled by how rare they are: function words say little about what a text is about.
2. A share of the role's mean is taken off, and one fixed matrix turns what is left so that the directions
   in which two texts of the same meaning differ (language, length, register) shrink, and those that tell
   meanings apart come first. A shorter vector is the start of that one.
3. Above the network's own size a hashed sketch of the text's terms follows, with a small weight: it finds
   shared rare words, which the network half forgets.

The matrix is a linear discriminant analysis in which each calibration pair is a class; it is fitted in
closed form by ``scripts/fit/ladder.py`` on texts whose licences allow it, see docs/quality.md.

Sources: Fisher 1936 / Hastie, Tibshirani & Friedman 2009 ch. 4.3 (discriminant analysis); Arora, Liang & Ma
2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (rarity-weighted means, common part off).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np

from embedserve.embedding.backbones.base import Floats, Ids, Window
from embedserve.embedding.dense import DenseRecipe, PlainRecipe, Role, mean_of_windows, to_unit
from embedserve.embedding.sparse import NO_TERMS, LexicalWeights, Terms

TOKEN_FLOOR = 0.25
"""Weight of every token of the text before its rarity (0 … 1) is added."""
OUTSIDE_WEIGHT = 1e-6
"""Weight of the special tokens and the prompt: enough for a text whose tokens all vanish, else nothing."""
TAIL_DIMENSIONS = (384, 512, 768, 1024, 1536, 2048)
TAIL_WEIGHTS = (0.0, 0.06, 0.07, 0.08, 0.09, 0.10)
"""Share of the squared length that the sketch gets at these dimensions; linear in between."""


@dataclass(frozen=True, slots=True)
class LadderMap:
    """What was fitted.

    Attributes:
        matrix: (hidden, hidden) float32, columns in falling order of importance.
        shifts: role -> (hidden,) float32, taken off the unit-length pooled vector.
    """

    matrix: Floats
    shifts: dict[Role, Floats]

    @classmethod
    def load(cls) -> LadderMap:
        """The map shipped with the package (``data/ladder.npz``)."""
        with resources.files("embedserve.embedding").joinpath("data/ladder.npz").open("rb") as file:
            stored = np.load(file)
            return cls(
                stored["matrix"].astype(np.float32),
                {"query": stored["shift_query"], "document": stored["shift_document"]},
            )


class LadderRecipe:
    """See :class:`embedserve.embedding.dense.DenseRecipe`.

    Args:
        lexical: weights of the vocabulary that the map was fitted with.
        fitted: the map; the shipped one when omitted.
    """

    name = "ladder"

    def __init__(self, lexical: LexicalWeights, fitted: LadderMap | None = None) -> None:
        self._lexical = lexical
        self._map = fitted or LadderMap.load()
        self._token_weights = lexical.pooling_weights + np.float32(TOKEN_FLOOR)

    @property
    def native_size(self) -> int:
        return len(self._map.matrix)

    def pool_weights(self, ids: Ids, prefix: int) -> Floats:
        weights: Floats = self._token_weights[ids]
        weights[:prefix] = OUTSIDE_WEIGHT
        weights[-1] = OUTSIDE_WEIGHT
        return weights

    def combine(self, vectors: Floats, windows: Sequence[Window]) -> Floats:
        return mean_of_windows(vectors, windows)

    def needs_terms(self, dimension: int) -> bool:
        return dimension > self.native_size

    def finish(self, pooled: Floats, role: Role, dimension: int, terms: Sequence[Terms | None]) -> Floats:
        centred = to_unit(pooled) - self._map.shifts[role]
        # Row by row: a product of matrices may round a row differently than the row alone.
        mapped = np.stack([np.dot(row, self._map.matrix) for row in centred])
        head = to_unit(mapped[:, :dimension])
        if dimension <= self.native_size:
            return head
        sketch = self._lexical.sketch_all([item or NO_TERMS for item in terms], dimension - self.native_size)
        tailed = sketch.any(axis=1, keepdims=True)
        share = tail_share(dimension)
        head *= np.where(tailed, np.sqrt(1 - share), np.float32(1))
        return np.concatenate([head, np.sqrt(share) * sketch], axis=1)

    @cached_property
    def _fitted(self) -> str:
        """A digest of all tables, so that a new fit is another recipe."""
        digest = hashlib.sha256(self._lexical.tables)
        for part in (self._map.matrix, *self._map.shifts.values()):
            digest.update(part.tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "fitted": self._fitted,
            "pooling": f"mean weighted by {TOKEN_FLOOR} + rarity of the token",
            "up_to_native_dimension": "one fixed map, cut and normalised",
            "above_native_dimension": "a hashed sketch of the terms follows; zeros for an instructed query",
            "sketch_share": dict(zip(map(str, TAIL_DIMENSIONS), TAIL_WEIGHTS, strict=True)),
        }


@cache
def tail_share(dimension: int) -> np.float32:
    return np.float32(np.interp(dimension, TAIL_DIMENSIONS, TAIL_WEIGHTS))


def open_recipe(name: str, lexical: LexicalWeights, hidden_size: int) -> DenseRecipe:
    """The recipe of that name; networks other than the bundled one have no ladder and get the plain recipe.

    Args:
        name: ``ladder`` or ``plain``.
        lexical: the lexical weights of the model's tokenizer.
        hidden_size: width of the network's states.

    Raises:
        ValueError: another name.
    """
    if name not in ("ladder", "plain"):
        raise ValueError(f"recipe is {name!r}, it should be 'ladder' or 'plain'")
    if name == "ladder" and (ladder := LadderRecipe(lexical)).native_size == hidden_size:
        return ladder
    return PlainRecipe()
