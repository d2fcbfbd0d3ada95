"""Opens the bundled model with the fastest backbone this machine can run."""

from __future__ import annotations

import logging
from pathlib import Path

from embedserve.embedding.backbones.base import Backbone
from embedserve.embedding.backbones.native import NativeBackbone, NativeTokenizer, NativeUnavailable
from embedserve.embedding.backbones.reference import ReferenceBackbone
from embedserve.embedding.tokenizer import Tokenizer, UnigramTokenizer
from embedserve.embedding.weights import BundledWeights
from embedserve.errors import ModelLoadError

log = logging.getLogger(__name__)


def open_bundled(
    isa: str = "auto", threads: int | None = None, path: Path | None = None
) -> tuple[Backbone, Tokenizer]:
    """The bundled multilingual-e5-small and its tokenizer.

    Args:
        isa: instruction set of the native core: ``auto`` for the best one present (and the plain NumPy
            encoder, with a warning, where the core is missing), one by name, or ``reference`` for NumPy.
        threads: threads of the native core; the cores this process may use when omitted.
        path: a copy of the weights file; the one inside the installed wheel when omitted.

    Raises:
        ModelLoadError: the weights are missing or damaged, or the instruction set asked for is not here.
    """
    weights = BundledWeights(path)
    if isa == "reference":
        return ReferenceBackbone(weights), UnigramTokenizer(weights)
    try:
        opened = NativeBackbone.from_bundled(weights, isa=isa, threads=threads), NativeTokenizer(weights)
        weights.release_pages()  # packed copies are made; only rows of the word table are read from now on
        return opened
    except NativeUnavailable as error:
        if isa != "auto":
            raise ModelLoadError(str(error)) from error
        log.warning("running the plain NumPy encoder, many times slower: %s", error)
        return ReferenceBackbone(weights), UnigramTokenizer(weights)
