"""What can be measured: this library, or any server with an OpenAI or DashScope door."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.dense import Role
from embedserve.embedding.embedder import Embedder, Options
from embedserve.embedding.sparse import SparseVector
from embedserve.errors import EmbedserveError

LIBRARY_BATCH = 64
SERVER_BATCH = 10
"""Texts a request: what the original allows."""
PLAIN_DIMENSION = 0
"""Stands for whatever size the model gives when it is not asked for one."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of n texts.

    Attributes:
        dense: dimension -> (n, dimension) rows of unit length.
        sparse: n sparse vectors; None where the model has none.
    """

    dense: dict[int, Floats]
    sparse: list[SparseVector] | None


class MeasuredModel(Protocol):
    """A model under measurement."""

    name: str
    batch: int

    def embed(
        self, texts: Sequence[str], role: Role, instruct: str | None, dimensions: Sequence[int]
    ) -> Vectors: ...


class LibraryModel:
    """This package in this process: the network runs once for all dimensions.

    Args:
        recipe: ``ladder`` or ``plain``.
        sparse: also make sparse vectors.
    """

    batch = LIBRARY_BATCH

    def __init__(self, recipe: Literal["ladder", "plain"] = "ladder", *, sparse: bool = True) -> None:
        self._embedder = Embedder(recipe=recipe)
        self._output: Literal["dense", "dense&sparse"] = "dense&sparse" if sparse else "dense"
        self.name = f"embedserve ({recipe})"

    def embed(
        self, texts: Sequence[str], role: Role, instruct: str | None, dimensions: Sequence[int]
    ) -> Vectors:
        embedder = self._embedder
        options = Options(role, instruct, max(dimensions), self._output, truncate="end")
        prepared = embedder.prepare(texts, options)
        states = embedder.backbone.encode([window for text in prepared for window in text.windows])
        dense: dict[int, list[Floats]] = {dimension: [] for dimension in dimensions}
        sparse: list[SparseVector] = []
        at = 0
        for text in prepared:
            own = states[at : at + len(text.windows)]
            at += len(text.windows)
            made = embedder.finish(text, own, options)
            if made.sparse is not None:
                sparse.append(made.sparse)
            for dimension in dimensions:
                one = replace(options, dimension=dimension, output_type="dense")
                vector = embedder.finish(text, own, one).dense
                if vector is not None:
                    dense[dimension].append(vector)
        return Vectors({size: np.stack(rows) for size, rows in dense.items()}, sparse or None)


class ServerModel:
    """A server with an OpenAI (``…/v1``) or DashScope-native (``…/text-embedding``) door.

    The key is read from ``EMBEDSERVE_API_KEY`` (then ``OPENAI_API_KEY``, ``DASHSCOPE_API_KEY``).

    Args:
        url: base URL of the OpenAI door, or full URL of the native one.
        model: name to ask for.
        roles: send ``text_type`` and ``instruct`` to an OpenAI door as extra fields; strict ones refuse.
    """

    batch = SERVER_BATCH

    def __init__(self, url: str, model: str, *, roles: bool = False, sparse: bool = False) -> None:
        self._native = url.rstrip("/").endswith("/text-embedding")
        self._url = url if self._native else url.rstrip("/") + "/embeddings"
        self._model = model
        self._roles = roles
        self._sparse = sparse and self._native
        names = ("EMBEDSERVE_API_KEY", "OPENAI_API_KEY", "DASHSCOPE_API_KEY")
        self._key = next((os.environ[name] for name in names if os.environ.get(name)), "none")
        self.name = f"{model} at {url}"

    def embed(
        self, texts: Sequence[str], role: Role, instruct: str | None, dimensions: Sequence[int]
    ) -> Vectors:
        dense: dict[int, Floats] = {}
        sparse: list[SparseVector] | None = None
        for dimension in dimensions:
            rows = self._ask(texts, role, instruct, dimension)
            matrix = np.array([row["embedding"] for row in rows], np.float32)
            dense[dimension] = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
            if self._sparse:
                sparse = [_read_sparse(row.get("sparse_embedding") or []) for row in rows]
        return Vectors(dense, sparse)

    def _ask(
        self, texts: Sequence[str], role: Role, instruct: str | None, dimension: int
    ) -> list[dict[str, Any]]:
        parameters: dict[str, Any] = {"text_type": role} | ({"instruct": instruct} if instruct else {})
        if self._native:
            if dimension:
                parameters["dimension"] = dimension
            if self._sparse:
                parameters["output_type"] = "dense&sparse"
            body = {"model": self._model, "input": {"texts": list(texts)}, "parameters": parameters}
            answer = self._post(body)["output"]["embeddings"]
            return sorted(answer, key=lambda row: int(row["text_index"]))
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        body |= ({"dimensions": dimension} if dimension else {}) | (parameters if self._roles else {})
        return sorted(self._post(body)["data"], key=lambda row: int(row["index"]))

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            detail = error.read(500).decode(errors="replace")
            raise EmbedserveError(f"{self._url} answered {error.code}: {detail}") from None
        except OSError as error:
            raise EmbedserveError(f"cannot reach {self._url}: {error}") from None


def open_model(
    spec: str, *, name: str = "text-embedding-v4", roles: bool = False, sparse: bool = True
) -> MeasuredModel:
    """The model behind a short description: ``ladder``, ``plain``, or a URL.

    Raises:
        EmbedserveError: neither.
    """
    if spec == "ladder":
        return LibraryModel("ladder", sparse=sparse)
    if spec == "plain":
        return LibraryModel("plain", sparse=sparse)
    if spec.startswith(("http://", "https://")):
        return ServerModel(spec, name, roles=roles, sparse=sparse)
    raise EmbedserveError(f"model is {spec!r}, it should be ladder, plain, or the URL of a server")


def batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _read_sparse(entries: Sequence[dict[str, Any]]) -> SparseVector:
    return SparseVector(
        np.array([entry["index"] for entry in entries], np.int32),
        np.array([entry["value"] for entry in entries], np.float32),
        tuple(str(entry.get("token", "")) for entry in entries),
    )
