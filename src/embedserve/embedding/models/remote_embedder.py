"""The pipeline in front of another server: its recipe is ours to apply, its vectors are its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.remote import RemoteBackbone, write_window
from embedserve.embedding.embedder import Options, Prepared
from embedserve.embedding.models.hub_embedder import PublishedEmbedder
from embedserve.embedding.recipes import Recipe
from embedserve.embedding.sparse import LexicalWeights
from embedserve.embedding.tokenizer import WORD_START, Tokenizer
from embedserve.errors import ModelLoadError, bad_length, invalid_input


class RemoteEmbedder(PublishedEmbedder):
    """See :class:`PublishedEmbedder`. Tokens are counted by the bundled tokenizer, not by the other server's.

    Args:
        backbone: the connection.
        model: prompts and sizes; pooling and end token are the other server's part of the recipe.
        tokenizer: counts tokens.
        lexical: sparse vectors.
    """

    backbone: RemoteBackbone

    def __init__(
        self, backbone: RemoteBackbone, model: Recipe, tokenizer: Tokenizer, lexical: LexicalWeights
    ) -> None:
        super().__init__(backbone, model, lexical, model.fingerprint(backbone.url, backbone.model))
        self._counter = tokenizer

    def _prepare(self, texts: Sequence[str], options: Options) -> list[Prepared]:
        if options.dense:
            self.model.check_dimension(options.dimension)
        prompt = self.model.prompt(options.text_type, options.instruct)
        limit = min(options.max_tokens, self.model.max_tokens)
        prepared: list[Prepared] = []
        for text, ids in zip(texts, self._counter.encode_batch(texts), strict=True):
            cut = max(0, len(ids) - limit)
            if not len(ids) or (cut and options.truncate == "none"):
                raise bad_length(limit, len(prepared), len(ids))
            if cut:
                ids = ids[cut:] if options.truncate == "start" else ids[:limit]
                text = self.decode(ids.tolist())
            windows = [write_window(prompt + text)] if options.dense else []
            terms = self.lexical.terms(text) if options.sparse else None
            prepared.append(Prepared(windows, len(ids), cut, terms))
        return prepared

    def decode(self, ids: Sequence[int]) -> str:
        try:
            pieces = [self._counter.piece(token) for token in ids if token > 3]
        except (IndexError, OverflowError):
            raise invalid_input(
                f"a token id is outside the vocabulary: highest {max(ids)}; send text instead"
            ) from None
        return "".join(pieces).replace(WORD_START, " ")

    def check_sanity(self) -> None:
        """What every embeddings server must do, golden scores or not.

        Raises:
            ModelLoadError: texts get each other's vectors, the same vector, or another one each time.
        """
        texts = ["Golden text one.", "Ein ganz anderer Satz über das Wetter.", "人工智能"]
        windows = [write_window(text) for text in texts]
        together = self.backbone.encode(windows)
        alone = np.concatenate([self.backbone.encode([window]) for window in windows])
        lengths = np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1)
        same = (together * alone).sum(axis=1) / np.maximum(lengths, 1e-12)
        if same.min() < 0.999:
            raise ModelLoadError(
                f"{self.backbone.url} gives a text another vector alone than in a batch (cosine "
                f"{same.min():.4f}): its padding or pooling is wrong for this model"
            )
        unit = together / np.linalg.norm(together, axis=1, keepdims=True)
        if (unit @ unit.T - np.eye(3)).max() > 0.9999:
            raise ModelLoadError(f"{self.backbone.url} gives different texts the same vector")
