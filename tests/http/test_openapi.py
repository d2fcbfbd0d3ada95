"""The published description: it names the routes there are, and the server answers as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from starlette.routing import Route

from embedserve.http import app
from embedserve.http.openapi import describe
from light_server import LightServer


@pytest.fixture(scope="module")
def server() -> Iterator[LightServer]:
    with LightServer() as running:
        yield running


def served(routes: Any) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


@pytest.mark.quick
def test_every_route_is_described_and_every_description_has_its_route() -> None:
    told = {
        (method.upper(), path)
        for path, item in describe()["paths"].items()
        for method in item
        if method != "parameters"
    }
    routes = [
        *app.openai_routes("/compatible-mode/v1"),
        *app.native_routes("/api/v1"),
        *app.operator_routes(),
    ]
    apart = {("GET", "/api/v1/models"), ("GET", "/api/v1/results/{name}")}  # they have one root only
    assert told == served(routes) | apart


@pytest.mark.quick
def test_it_is_served_to_everybody(server: LightServer) -> None:
    answer = httpx.get(f"{server.url}/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == describe()


def test_what_is_described_is_what_happens(server: LightServer) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in modes:
            try:
                cases = operation.as_strategy(generation_mode=mode)
                check = examine(server, cases)
                check()
            except Exception as error:
                if type(error).__name__ == "Unsatisfiable":
                    continue  # nothing about this operation can be wrong
                raise


def examine(server: LightServer, cases: Any) -> Any:
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        reply = case.call(headers=server.headers)
        assert reply.status_code < 500, (case.method, case.path, reply.text)
        assert reply.headers["x-request-id"]
        case.operation.validate_response(reply)

    return check
