"""Reading JSON bodies strictly: bounded size, the right content type, no NaN or Infinity, no lone surrogates, no deep nesting."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope


class StrictRequest(Request):
    """A request whose body is checked as it is read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self._json_value: Any = msgspec.UNSET

    async def body(self) -> bytes:
        """The body. Raises HTTPException 413 as soon as it is too large, 415 if it is not JSON."""
        if not hasattr(self, "_body"):
            kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HTTPException(415, "the Content-Type of a request must be application/json")
            self._body = await self._read(self.app.state.max_body_bytes)
        return self._body

    async def json(self) -> Any:
        """The body as JSON. Raises HTTPException 400 with the reason."""
        if self._json_value is msgspec.UNSET:
            try:
                self._json_value = _decoded(await self.body())
            except RecursionError as error:
                raise HTTPException(400, "the JSON body nests too deeply") from error
            except ValueError as error:
                raise HTTPException(400, f"the body is not valid JSON: {error}") from error
        return self._json_value

    async def _read(self, limit: int) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and len(declared) < 20 and int(declared) > limit:
            raise _too_large(limit)
        chunks, size = [], 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)


def _decoded(content: bytes) -> Any:
    """The JSON value. While very many lists are made, the cyclic collector would go through them again and again, in vain."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return msgspec.json.decode(content)
    finally:
        if collecting:
            gc.enable()


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes (--max-body)", {"Connection": "close"})


class StrictRoute(APIRoute):
    """A route that reads its body as StrictRequest does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return handle
