"""What no model can read whole is not tokenised whole.

The longest text that a model takes is known in tokens only, and a caller's text may have megabytes. So one of
more than LONG characters is looked at in slices, until it is clear that it is too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from embedserve.embedding.embedder import Embedder, Options
from embedserve.errors import EmbedserveError

LONG = 131_072
"""Characters that 8,192 tokens of 16 characters have: texts up to here are tokenised as they are."""
MOST = 1_048_576
"""Characters beyond which a text is too long whatever its tokens are, white space not counted."""
_SLICE = 16_384
_ENOUGH = 2
"""A slice may cut a token in two: this many times the limit are needed to be sure."""


def bound(text: str, options: Options, embedder: Embedder) -> str | None:
    """A text that gives the same vector and can be tokenised in bounded time and memory.

    Slices of nothing but white space are dropped on the way. Where ``options`` let the text be truncated, the
    end that goes is not read any further than it takes to fill the model, so of a text of megabytes only the
    tokens cut of what was read are counted.

    Returns:
        The text; None if it is too long and may not be truncated.
    """
    if len(text) <= LONG:
        return text
    probe = replace(options, output_type="dense", truncate="end")
    from_end = options.truncate == "start"
    kept: list[str] = []
    characters = tokens = 0
    for piece in _slices(text, from_end):
        found = _count(piece, probe, embedder)
        kept.append(piece if found else "".join(dict.fromkeys(piece)))
        characters, tokens = characters + len(kept[-1]), tokens + found
        if tokens > _ENOUGH * options.max_tokens or characters > MOST:
            if options.truncate == "none":
                return None
            break
    return "".join(reversed(kept) if from_end else kept)


def _slices(text: str, from_end: bool) -> Iterator[str]:
    starts = range(0, len(text), _SLICE)
    for start in reversed(starts) if from_end else starts:
        yield text[start : start + _SLICE]


def _count(piece: str, probe: Options, embedder: Embedder) -> int:
    try:
        prepared = embedder.prepare([piece], probe)[0]
    except EmbedserveError:  # nothing in it that could be embedded
        return 0
    return prepared.tokens + prepared.cut
