"""Text to measure with: real sentences where they are at hand, random words of the vocabulary otherwise."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from embedserve.embedding.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ROOT.parent / "shared" / "eval" / "calib" / "pairs.jsonl"
LINES = 6000


class TextSource:
    """Texts of a wanted length in tokens, drawn from real ones laid end to end; the same for one seed.

    Args:
        path: JSON lines with ``query`` and ``document``; random words of the vocabulary if there is no such
            file (tokens then cost the same, but are not language).
    """

    def __init__(self, tokenizer: Tokenizer, path: Path = PAIRS, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.real = path.is_file()
        if self.real:
            with path.open() as file:
                rows = [json.loads(line) for line in islice(file, LINES)]
            texts = [text for row in rows for text in (row["query"], row["document"])]
            self.random.shuffle(texts)
            self._words = [word for text in texts for word in text.split(" ") if word]
        else:
            ids = [self.random.randrange(1000, 200_000) for _ in range(50_000)]
            self._words = [tokenizer.piece(token).replace("▁", "") or "a" for token in ids]
        counts = tokenizer.encode_batch(self._words)
        self._tokens = [max(1, len(ids)) for ids in counts]

    def text(self, tokens: int) -> str:
        """About this many tokens (words are counted one by one; special tokens are not counted)."""
        at = self.random.randrange(len(self._words))
        words, total = [], 0
        while total < tokens:
            words.append(self._words[at])
            total += self._tokens[at]
            at = (at + 1) % len(self._words)
        return " ".join(words)

    def short(self) -> list[str]:
        """One query of 8 to 16 tokens."""
        return [self.text(self.random.randint(8, 16) - 3)]

    def ten(self) -> list[str]:
        """Ten texts of about 30 tokens."""
        return [self.text(30) for _ in range(10)]

    def mix(self) -> list[str]:
        """One to ten texts, lengths lognormal between 10 and 388 tokens with a median of 60."""
        return [
            self.text(round(min(388, max(10, self.random.lognormvariate(4.1, 0.8)))))
            for _ in range(self.random.choice((1, 1, 2, 4, 8, 10)))
        ]

    def long(self) -> list[str]:
        """Ten texts of 400 tokens: what a bulk loader sends."""
        return [self.text(400) for _ in range(10)]

    def requests(self, shape: str, count: int) -> Sequence[list[str]]:
        make = {"short": self.short, "ten": self.ten, "mix": self.mix, "long": self.long}[shape]
        return [make() for _ in range(count)]
