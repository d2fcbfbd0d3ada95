"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from embedserve import Embedder
from serving import Server

pytest_plugins = ["job_store", "real_servers"]

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The documents and evaluation data that lie beside a developer's checkout; tests skip without them."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here: this test needs its data")
    return folder


@pytest.fixture(scope="session")
def embedder() -> Iterator[Embedder]:
    """The bundled model in this process."""
    embedder = Embedder()
    yield embedder
    embedder.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with default settings (strict limits)."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def lenient_server() -> Iterator[Server]:
    """A server with ``--limits lenient``."""
    with Server("--limits", "lenient") as running:
        yield running
