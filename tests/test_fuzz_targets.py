"""The fuzzer's targets themselves: their seeds, and some mutations of them, for a second each."""

from __future__ import annotations

import pytest
from fuzz.parsers import NAMES, at_random, load


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_their_mutations_hold(name: str) -> None:
    target = load(name)
    assert at_random(target.check, target.SEEDS, 1, seed=7) >= len(target.SEEDS)
