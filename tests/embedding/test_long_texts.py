"""A text that is bounded before it is tokenised gives what the whole of it gives."""

from __future__ import annotations

import numpy as np
import pytest

from embedserve import Embedder
from embedserve.embedding.embedder import Options, Truncate
from embedserve.embedding.long_texts import LONG, MOST, bound

LIMIT = 512
PROSE = "The quality of the clothes is excellent, 衣服的质量杠杠的. "


def ids_of(embedder: Embedder, text: str, truncate: Truncate) -> np.ndarray:
    """Ids of the windows, one after another."""
    options = Options(max_tokens=LIMIT, truncate=truncate)
    return np.concatenate([window.ids for window in embedder.prepare([text], options)[0].windows])


@pytest.mark.parametrize("truncate", ["start", "end"])
@pytest.mark.parametrize(
    "text",
    [
        PROSE * 20_000,
        "衣服的质量杠杠的" * 60_000,
        "a" + " " * 300_000 + "b" + "\n\t" * 200_000 + PROSE * 3000,
        "\x01" * 200_000 + PROSE * 3000 + "\x01 " * 100_000,
    ],
    ids=["words", "no spaces", "white space", "control characters"],
)
def test_what_is_cut_need_not_be_read(embedder: Embedder, text: str, truncate: Truncate) -> None:
    bounded = bound(text, Options(max_tokens=LIMIT, truncate=truncate), embedder)
    assert bounded is not None
    assert len(bounded) < len(text) // 2
    assert np.array_equal(ids_of(embedder, bounded, truncate), ids_of(embedder, text, truncate))


@pytest.mark.parametrize("gap", [" ", "\n", "\t \n", "\u3000", "\u200b", "\x01", "\x01 \u200b"])
def test_gaps_of_any_kind_mean_what_they_meant(embedder: Embedder, gap: str) -> None:
    text = "out" + gap * (2 * LONG // len(gap)) + "side of" + gap * 40_000 + "here"
    bounded = bound(text, Options(max_tokens=LIMIT), embedder)
    assert bounded is not None
    assert np.array_equal(ids_of(embedder, bounded, "none"), ids_of(embedder, text, "none"))


@pytest.mark.parametrize("text", [PROSE * 100_000, "衣" * (LONG + 1) * 4, "\U0001faf6" * (2 * MOST)])
def test_what_is_too_long_is_refused_unread(embedder: Embedder, text: str) -> None:
    assert bound(text, Options(max_tokens=LIMIT), embedder) is None


def test_a_text_of_any_usual_length_is_left_alone(embedder: Embedder) -> None:
    text = PROSE * (LONG // len(PROSE))
    assert bound(text, Options(), embedder) is text
