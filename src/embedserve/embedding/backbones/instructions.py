"""Where the instruction before a query ends.

Queries share their instruction, so a decoder's keys and values of it are worth keeping: attention is causal,
so the positions of the instruction do not depend on what follows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Window

LONGEST_PREFIX = 256
"""Tokens searched for the cut."""

Prefix = tuple[int, int]
"""(first, marker): windows that begin with token ``first`` are cut before the first token ``marker``."""


def find_prefix(tokenize: Callable[[str], Any]) -> Prefix:
    """The tokens of an instruction prompt: those of ``Instruct`` and of ``Query``."""
    first, marker = tokenize("Instruct"), tokenize("Query")
    return int(first[0]), int(marker[0])


def cut_at(window: Window, prefix: Prefix | None) -> int:
    """Tokens of the instruction at the start of a window; 0 where it has none or pools over them."""
    if prefix is None:
        return 0
    first, marker = prefix
    head = window.ids[:LONGEST_PREFIX]
    if len(head) == 0 or head[0] != first:
        return 0
    (found,) = np.nonzero(head == marker)
    length = int(found[0]) if len(found) else 0
    return 0 if length == len(window.ids) or window.weights[:length].any() else length
