"""``embedserve serve`` with a network that takes no time: for tests of everything around it.

Run as a program it takes the arguments of ``embedserve serve``. ``FAULT_POINT=name:n`` ends the process with
SIGKILL when the n-th group of charges reaches that point of its commit.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import Server

FAULT_POINTS = ("requests-written", "days-written", "before-commit", "after-commit")


class LightServer(Server):
    program = (str(Path(__file__)),)


class WordTokenizer:
    """A token a word."""

    bos_id, eos_id = 0, 2

    def encode(self, text: str) -> NDArray[np.int32]:
        return np.array([5 + sum(map(ord, word)) % 1000 for word in text.split()], np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.encode(text) for text in texts]

    def piece(self, token_id: int) -> str:
        return f"▁w{token_id}"


def die_at(point: str, count: int) -> None:
    """Hook into SQLAlchemy rather than into the ledger: the code under test is the code that ships."""
    import sqlalchemy as sa
    from sqlalchemy.engine import Engine

    numbers: dict[str, itertools.count[int]] = {name: itertools.count(1) for name in FAULT_POINTS}
    charged = False

    def reach(name: str) -> None:
        if name == point and next(numbers[name]) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(Engine, "after_cursor_execute")
    def executed(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal charged
        if statement.startswith("INSERT INTO usage_requests"):
            charged = True
            reach("requests-written")
        if statement.startswith("INSERT INTO usage_daily"):
            reach("days-written")

    @sa.event.listens_for(Engine, "commit")
    def committing(connection: Any) -> None:
        if charged:
            reach("before-commit")

    from embedserve.accounts.ledger import Ledger

    commit: Callable[..., None] = Ledger._commit

    def commit_and_tell(self: Ledger, *arguments: Any, **named: Any) -> None:
        tell = self._tell
        self._tell = lambda *told: (reach("after-commit"), tell(*told))[1]  # type: ignore[method-assign]
        commit(self, *arguments, **named)
        self._tell = tell  # type: ignore[method-assign]

    Ledger._commit = commit_and_tell  # type: ignore[method-assign]


def use_light_embedder(seconds_per_token: float = 0.0) -> None:
    """From now on the service opens the dummy network instead of the bundled model."""
    from embedserve.embedding.backbones.dummy import DummyBackbone
    from embedserve.embedding.embedder import Embedder

    backbone = DummyBackbone(seconds_per_token=seconds_per_token)
    light = partial(Embedder, backbone=backbone, tokenizer=WordTokenizer(), recipe="plain")
    Embedder.configure = lambda settings: light()  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    import typer

    from embedserve.cli import serve

    use_light_embedder(float(os.environ.get("SECONDS_PER_TOKEN", "0")))
    if fault := os.environ.get("FAULT_POINT"):
        name, _, number = fault.partition(":")
        die_at(name, int(number))
    typer.run(serve.serve)
