"""The pipeline over a hub model: its own tokenizer, prompts, pooling and sparse head.

Unlike the bundled model's pipeline a prompt is tokenised together with the text, because a byte-level BPE may
merge across the border (``Query:`` and what follows it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Ids, Window
from embedserve.embedding.backbones.encoder import read_slots
from embedserve.embedding.dense import mean_of_windows
from embedserve.embedding.embedder import Embedder, Options, Prepared
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.recipes import Golden, Recipe, check_golden, cut_and_normalise
from embedserve.embedding.sparse import LexicalWeights, SparseVector, Terms
from embedserve.embedding.tokenizer import WORD_START
from embedserve.embedding.turns import Turns
from embedserve.errors import ModelLoadError, bad_length, invalid_input

PREFERRED_DIMENSION = 1024
"""The API's default; models that cannot be cut to it answer at their own size."""


class PublishedRecipe:
    """A model's published recipe as the pipeline's :class:`~embedserve.embedding.dense.DenseRecipe`."""

    def __init__(self, model: Recipe, fingerprint: str) -> None:
        self.name = model.name
        self.fingerprint = fingerprint
        self._model = model

    def pool_weights(self, ids: Ids, prefix: int) -> Floats:
        return self._model.pool_weights(len(ids))

    def combine(self, vectors: Floats, windows: Sequence[Window]) -> Floats:
        return mean_of_windows(vectors, windows)

    def needs_terms(self, dimension: int) -> bool:
        return False

    def finish(self, pooled: Floats, role: object, dimension: int, terms: Sequence[Terms | None]) -> Floats:
        return cut_and_normalise(pooled[:, : self._model.native_size], dimension)

    def describe(self) -> dict[str, object]:
        return {**self._model.describe(), "fingerprint": self.fingerprint}


class PublishedEmbedder(Embedder):
    """A pipeline that ends as a model's publisher says: pooled, cut, unit length.

    Args:
        backbone, model: the network and its recipe.
        lexical: sparse weights for models without a head of their own.
        fingerprint: identity of weights, recipe and arithmetic.
    """

    def __init__(self, backbone: Backbone, model: Recipe, lexical: LexicalWeights, fingerprint: str) -> None:
        self.backbone = backbone
        self.model = model
        self.lexical = lexical
        self.recipe: PublishedRecipe = PublishedRecipe(model, fingerprint)
        self._turns = Turns(backbone)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def native_dimension(self) -> int:
        return self.model.native_size

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint

    def choose_dimension(self, chosen: int, *, asked: bool) -> int:
        """A caller's own word stands or is refused; the catalogue's default gives way to the model's."""
        return chosen if asked or chosen in self.model.dimensions else self.default_dimension

    @property
    def default_dimension(self) -> int:
        return PREFERRED_DIMENSION if PREFERRED_DIMENSION in self.model.dimensions else self.model.native_size

    def _check_dimension(self, dimension: int) -> None:
        pass  # by `prepare`, which knows the model's sizes and the remedy

    def _sparse(self, prepared: Prepared, vectors: Floats, options: Options) -> SparseVector | None:
        if prepared.terms is None:
            return self.read_head(vectors[:, self.model.native_size :])
        return super()._sparse(prepared, vectors, options)

    def read_head(self, rows: Floats) -> SparseVector:
        """Sparse entries from what a sparse head left behind the pooled states."""
        raise NotImplementedError(f"{self.backbone.name} has no sparse head")

    def check(self, golden: Golden) -> float:
        """Compare with published scores; the largest difference.

        Raises:
            ModelLoadError: over the tolerance: this checkpoint or this machine computes something else.
        """
        size = self.model.native_size

        def embed(texts: Sequence[str], role: Any) -> Floats:
            options = Options(text_type=role, dimension=size)
            prepared = self.prepare(texts, options)
            rows = [self.finish(one, self.backbone.encode(one.windows), options).dense for one in prepared]
            return np.stack([row for row in rows if row is not None])

        found = check_golden(golden, embed(golden.queries, "query"), embed(golden.documents, "document"))
        if not found <= golden.tolerance:  # also refuses NaN
            raise ModelLoadError(
                f"{self.model.name} misses its golden scores ({golden.source}) by {found:.4f}, allowed are "
                f"{golden.tolerance}: the weights or the recipe are not the published ones; run "
                "`embedserve models verify`, pull again, or state your own recipe in embedserve_recipe.json"
            )
        return found


class HubEmbedder(PublishedEmbedder):
    """A network of ours over a hub folder.

    Args:
        backbone, tokenizer, model: the network, its tokenizer and its recipe.
        lexical, fingerprint: see :class:`PublishedEmbedder`.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: HubTokenizer,
        model: Recipe,
        lexical: LexicalWeights,
        fingerprint: str = "",
    ) -> None:
        super().__init__(backbone, model, lexical, fingerprint)
        self._hub_tokenizer = tokenizer
        self.window_size = min(model.max_tokens, backbone.window_size)
        self._own_head = backbone.hidden_size > model.native_size

    def _prepare(self, texts: Sequence[str], options: Options) -> list[Prepared]:
        if options.dense:
            self.model.check_dimension(options.dimension)
        prompt = self.model.prompt(options.text_type, options.instruct)
        room = self.window_size // 2
        if prompt and (length := len(self._hub_tokenizer.encode(prompt))) > room:
            raise invalid_input(
                f"Value error, instruct has {length} tokens with its prompt, it should have at most {room}: "
                "shorten it to one sentence that names the task.: parameters.instruct"
            )
        cuts: list[int] = []
        counts: list[int] = []
        kept: list[tuple[str, Ids]] = []
        for text, ids in zip(texts, self._hub_tokenizer.encode_batch(texts), strict=True):
            cut = max(0, len(ids) - options.max_tokens)
            if not len(ids) or (cut and options.truncate == "none"):
                raise bad_length(options.max_tokens, len(kept), len(ids))
            if cut:
                ids = ids[cut:] if options.truncate == "start" else ids[: options.max_tokens]
                text = self.decode(ids.tolist())
            cuts.append(cut)
            counts.append(len(ids))
            kept.append((text, ids))
        whole = [ids for _, ids in kept]
        if prompt:
            whole = self._hub_tokenizer.encode_batch([prompt + text for text, _ in kept])
        sparse_terms = options.sparse and not self._own_head
        needs_windows = options.dense or not sparse_terms
        return [
            Prepared(
                self._cut_windows(together, ids) if needs_windows else (),
                count,
                cut,
                self.lexical.terms(text) if sparse_terms else None,
            )
            for (text, ids), together, count, cut in zip(kept, whole, counts, cuts, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return self._hub_tokenizer.decode(ids)

    def read_head(self, rows: Floats) -> SparseVector:
        """The largest weight of each id over a text's windows, as the original's sparse entries."""
        heaviest: dict[int, float] = {}
        for row in rows:
            ids, weights = read_slots(row)
            for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
                heaviest[token] = max(weight, heaviest.get(token, 0.0))
        entries = [(token, round(weight, 4)) for token, weight in heaviest.items() if weight >= 0.00005]
        entries.sort(key=lambda entry: (-entry[1], entry[0]))
        tokens = tuple(self._hub_tokenizer.piece(token).replace(WORD_START, "") for token, _ in entries)
        return SparseVector(
            np.array([token for token, _ in entries], np.int32),
            np.array([weight for _, weight in entries], np.float32),
            tokens,
        )

    def _cut_windows(self, together: Ids, ids: Ids) -> list[Window]:
        """One window, or several for a text longer than the network reads, each with the prompt."""
        tokenizer, room = self._hub_tokenizer, self.window_size - self._hub_tokenizer.special_count
        parts = [together]
        if len(together) > room:
            prefix = together[: len(together) - len(ids)]
            size = room - len(prefix)
            slices = np.array_split(together[len(prefix) :], -(-(len(together) - len(prefix)) // size))
            parts = [np.concatenate([prefix, part]) for part in slices]
        sequences = [tokenizer.wrap(part, self.window_size)[0] for part in parts]
        return [Window(sequence, self.model.pool_weights(len(sequence))) for sequence in sequences]
