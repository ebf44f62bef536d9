"""The ASGI application: routes, error answers, request ids and the access log around one Service."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manylora import __version__
from manylora.errors import ManyloraError, RequestAborted
from manylora.server.api.responses import ChatCompletionChunk
from manylora.server.error_map import from_status, from_validation, to_http
from manylora.server.routes import adapters, chat, completions, models, operations
from manylora.server.service import Service

log = structlog.get_logger("manylora.server")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}\Z")


def create_app(service: Service) -> FastAPI:
    """The application of one service. Whoever starts and stops the engine does so outside of it."""
    app = FastAPI(title="manylora", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.max_body_bytes = service.config.max_body_bytes
    for routes in (completions, chat, models, operations):
        app.include_router(routes.router)
    app.include_router(adapters.router if service.config.allow_runtime_adapters else adapters.switched_off)
    _answer_errors(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Outermost, service=service)
    return app


_ABOUT = "Many LoRA adapters on one base model, OpenAI-compatible. `model` chooses the adapter."


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ManyloraError)
    async def ours(request: Request, error: ManyloraError) -> Response:
        if isinstance(error, RequestAborted):
            log.debug("client gone", path=request.url.path)
        return to_http(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return from_validation(list(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        detail = error.detail
        if error.status_code == 404:
            detail = f"no route {request.url.path}"
        elif error.status_code == 405:
            detail = f"{request.method} is not allowed on {request.url.path}"
        return from_status(error.status_code, detail).response(error.headers)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, and the chunks of streams, which no route returns as a type; without FastAPI's own 422."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, chunks = models_json_schema([(ChatCompletionChunk, "serialization")], ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        schemas.update(chunks["$defs"])
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


class Outermost:
    """Around everything: the time a request arrived, its id, one line in the access log, and 500s as error objects.

    Plain ASGI, because it must neither buffer nor copy a stream."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope["headers"])
        scope.setdefault("state", {})["started"] = started
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log.exception("request failed", path=scope["path"], request_id=request_id.decode())
            if not status:
                await to_http(error).response()(scope, receive, sending)
        finally:
            self._record(scope, status, started, request_id)

    def _record(self, scope: Scope, status: int, started: float, request_id: bytes) -> None:
        if status >= 400 and scope["path"] != "/health":  # a probe that is told to wait has not failed
            self._service.metrics.failed.labels(str(status)).inc()
        if self._service.config.access_log:
            took = round((time.perf_counter() - started) * 1e3, 2)
            log.info("access", method=scope["method"], path=scope["path"], status=status, ms=took, request_id=request_id.decode())


def _request_id(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The client's X-Request-Id if it is a plain word, else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given if _REQUEST_ID.match(given) else uuid.uuid4().hex.encode()
