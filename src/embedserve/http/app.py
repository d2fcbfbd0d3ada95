"""The ASGI application: every route in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from embedserve.errors import EmbedserveError
from embedserve.http.admin.routes import admin_routes
from embedserve.http.console import assets as console
from embedserve.http.dashscope import embeddings as native_embeddings
from embedserve.http.dashscope import models as native_models
from embedserve.http.dashscope import tasks as native_tasks
from embedserve.http.dashscope.task_lines import TaskLines
from embedserve.http.errors import tell, tell_database, tell_hangup, tell_http, tell_unforeseen
from embedserve.http.front.gate import Gate
from embedserve.http.middleware.hold import HoldMiddleware
from embedserve.http.middleware.observe import ObserveMiddleware
from embedserve.http.middleware.request_line import RequestLineMiddleware
from embedserve.http.openai import batches as openai_batches
from embedserve.http.openai import embeddings as openai_embeddings
from embedserve.http.openai import files as openai_files
from embedserve.http.openai import models as openai_models
from embedserve.http.openai.batch_lines import BatchLines
from embedserve.http.openapi import get_openapi
from embedserve.http.operator import probes
from embedserve.http.operator.accounts_metrics import AccountsCollector
from embedserve.http.operator.engine import EngineCollector
from embedserve.http.operator.front import FrontCollector
from embedserve.http.routing import DialectRoute
from embedserve.jobs.store import Jobs
from embedserve.service import EmbeddingService

OPENAI_ROOTS = ("/compatible-mode/v1", "/v1", "")
"""The original's root first; the others for people who give the base URL they are used to."""
NATIVE_ROOTS = ("/api/v1", "")
TEXT_EMBEDDING = "/services/embeddings/text-embedding/text-embedding"
MULTIMODAL_EMBEDDING = "/services/embeddings/multimodal-embedding/multimodal-embedding"


def openai_routes(root: str) -> list[BaseRoute]:
    return [
        DialectRoute(f"{root}/embeddings", openai_embeddings.create_embeddings, methods=["POST"]),
        DialectRoute(f"{root}/files", openai_files.create_file, methods=["POST"]),
        DialectRoute(f"{root}/files", openai_files.list_files),
        DialectRoute(f"{root}/files/{{id}}", openai_files.delete_file, methods=["DELETE"]),
        DialectRoute(f"{root}/files/{{id}}", openai_files.get_file),
        DialectRoute(f"{root}/files/{{id}}/content", openai_files.get_content),
        DialectRoute(f"{root}/batches", openai_batches.create_batch, methods=["POST"]),
        DialectRoute(f"{root}/batches", openai_batches.list_batches),
        DialectRoute(f"{root}/batches/{{id}}", openai_batches.get_batch),
        DialectRoute(f"{root}/batches/{{id}}/cancel", openai_batches.cancel_batch, methods=["POST"]),
        DialectRoute(f"{root}/models", openai_models.list_models),
        DialectRoute(f"{root}/models/{{id}}", openai_models.get_model),
    ]


def native_routes(root: str) -> list[BaseRoute]:
    native = partial(DialectRoute, dialect="native")
    return [
        native(f"{root}{TEXT_EMBEDDING}", native_embeddings.create_embeddings, methods=["POST"]),
        native(f"{root}{MULTIMODAL_EMBEDDING}", native_embeddings.create_multimodal, methods=["POST"]),
        native(f"{root}/tasks", native_tasks.list_tasks),
        native(f"{root}/tasks/{{id}}", native_tasks.get_task),
        native(f"{root}/tasks/{{id}}/cancel", native_tasks.cancel_task, methods=["POST"]),
    ]


def operator_routes() -> list[BaseRoute]:
    return [
        DialectRoute("/health", probes.health),
        DialectRoute("/ready", probes.ready),
        DialectRoute("/metrics", probes.metrics),
        DialectRoute("/openapi.json", get_openapi),
    ]


def console_routes() -> list[BaseRoute]:
    return [
        DialectRoute("/", console.lead_to_console),
        DialectRoute("/console", console.lead_to_console),
        DialectRoute("/console/", console.serve_asset),
        DialectRoute("/console/{name}", console.serve_asset),
    ]


def create_app(service: EmbeddingService, gate: Gate | None = None) -> ASGIApp:
    """The whole HTTP face of one service; it starts and closes with the application's lifespan.

    Args:
        gate: the front that will serve it, for its metrics; None under another server.
    """

    settings = service.settings
    jobs = Jobs(service, settings, {"batch": BatchLines(settings.max_file_mb * 2**20), "task": TaskLines()})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        await jobs.start()
        yield
        await jobs.close()
        await service.close()

    routes: list[BaseRoute] = [
        *(route for root in OPENAI_ROOTS for route in openai_routes(root)),
        *(route for root in NATIVE_ROOTS for route in native_routes(root)),
        DialectRoute("/api/v1/results/{name}", native_tasks.get_result, dialect="native"),
        DialectRoute("/api/v1/models", native_models.list_models, dialect="native"),
        *operator_routes(),
        *(admin_routes() if service.settings.admin_key else []),
        *console_routes(),
    ]
    # Routes are tried in turn: first those that nearly every request takes.
    routes.sort(key=lambda route: not (isinstance(route, Route) and "/embeddings" in route.path))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, compresslevel=1)] if service.settings.gzip else [],
        exception_handlers={
            EmbedserveError: tell,
            HTTPException: tell_http,
            SQLAlchemyError: tell_database,
            ClientDisconnect: tell_hangup,
            Exception: tell_unforeseen,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.jobs = jobs
    app.state.registry = CollectorRegistry()
    app.state.registry.register(AccountsCollector(service.accounts))
    app.state.registry.register(EngineCollector(service))
    if gate is not None:
        app.state.registry.register(FrontCollector(gate))
    # Around the application rather than inside it, so that even a reply to a bug carries its id.
    return ObserveMiddleware(RequestLineMiddleware(HoldMiddleware(app)), app.state.registry)
