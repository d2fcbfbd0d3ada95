"""Routes that know which dialect they speak: an error is told in it, wherever the application stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from starlette.routing import Match, Route
from starlette.types import Scope

Dialect = Literal["openai", "native"]

_ROUTE = "embedserve.route"
_NATIVE_ROOTS = ("/api", "/services", "/tasks")
OTHER = "other"
"""What logs and metrics call a path that has no route: it is the caller's, and there may be any number."""


class DialectRoute(Route):
    """A route of one dialect.

    Args:
        path: the template, as ``/files/{id}``.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dialect: Dialect = "openai",
        methods: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods) if methods else None)
        self.dialect: Dialect = dialect

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, found if match is Match.NONE else {**found, _ROUTE: self}


def dialect_of(scope: Scope) -> Dialect:
    """Of the route that was found (with another method, too); without one, of the root that the path has."""
    route = scope.get(_ROUTE)
    if isinstance(route, DialectRoute):
        return route.dialect
    path = own_path(scope)
    native = any(path == root or path.startswith(f"{root}/") for root in _NATIVE_ROOTS)
    return "native" if native else "openai"


def template_of(scope: Scope) -> str:
    """The path as the route has it, never as the caller wrote it."""
    route = scope.get(_ROUTE)
    return route.path if isinstance(route, Route) else OTHER


def handler_of(scope: Scope) -> str:
    """The handler's name, the same for all roots of a dialect: ``openai.create_embeddings``."""
    endpoint = scope.get("endpoint")
    if endpoint is None or scope.get(_ROUTE) is None:
        return OTHER
    return f"{endpoint.__module__.split('.')[-2]}.{endpoint.__name__}"


def own_path(scope: Scope) -> str:
    """The path below the prefix under which this application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path
