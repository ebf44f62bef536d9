"""Answers that may outlive their client: both kinds end their work as soon as the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from manylora.errors import ManyloraError, RequestAborted
from manylora.server.error_map import to_http

log = structlog.get_logger("manylora.server")

Result = TypeVar("Result")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled if the client goes away first; then raises RequestAborted."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestAborted("the client closed the connection")
        return task.result()
    finally:
        await _end(task, watcher)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Returns when all have ended; their errors have been seen by whoever waited for them, or matter to nobody."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events. A failure midway is sent as an error event, which ends the stream without [DONE].

    A client that reads slowly holds up only this response: the socket's back-pressure suspends its own task."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str], cleanup: contextlib.AsyncExitStack) -> None:
        """`cleanup` is left when the response has ended, however it ends, even before it began."""
        self._events = events
        self._cleanup = cleanup
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._cleanup:
            writer = asyncio.ensure_future(self._write(send))
            watcher = asyncio.ensure_future(_gone(receive))
            try:
                await asyncio.wait((writer, watcher), return_when=asyncio.FIRST_COMPLETED)
                if writer.done():
                    writer.result()
            finally:
                await _end(writer, watcher)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events):
            try:
                async for chunk in self._events:
                    if chunk:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:
                if not isinstance(error, ManyloraError):
                    log.exception("stream failed")
                chunk = b"data: " + to_http(error).body() + b"\n\n"
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
