"""From a request's body to an HTTP answer, streamed or whole. Shared by completions and chat completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response

from manylora.errors import RequestError
from manylora.metrics.server import RequestTimer
from manylora.server.api.requests import SamplingBody
from manylora.server.generation import Event, Generation
from manylora.server.registry import Lease
from manylora.server.sampling import text_options
from manylora.server.service import Service
from manylora.server.streaming import EventStream, while_connected
from manylora.server.wire.envelope import DONE, Envelope, Writer

Body = TypeVar("Body", bound=SamplingBody)

log = structlog.get_logger("manylora.server")

VERSION_HEADER = "x-manylora-adapter-version"
"""Names the adapter version that answered: its whole hash, or `base`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be generated."""

    body: SamplingBody
    envelope: Envelope
    generation: Generation
    writer: Writer


def service_of(request: Request) -> Service:
    """The service of the application that got this request."""
    service: Service = request.app.state.service
    return service


def check_size(service: Service, prompts: int, n: int) -> None:
    """Raises RequestError if one HTTP request asks for more answers than the server allows."""
    if prompts * n > service.config.max_sequences:
        raise RequestError(f"{prompts} prompts times n {n} is more than {service.config.max_sequences} answers", "n")


def response_headers(lease: Lease) -> dict[str, str]:
    """The headers of every answer."""
    return {VERSION_HEADER: "base" if lease.answers is None else lease.answers.hash}


async def answer(request: Request, body: Body, prepare: Callable[[Service, Lease, Body], Awaitable[Prepared]]) -> Response:
    """The HTTP answer of whoever `body.model` is; `prepare` makes a generation of the body.

    The adapter is leased from before that until the answer has ended, however it ends. A stream's headers wait for its first
    output, so that a request the engine refuses gets the right status."""
    service = service_of(request)
    service.ready()
    lease = service.registry.resolve(body.model)
    headers = response_headers(lease)
    async with AsyncExitStack() as cleanup:
        cleanup.callback(lease.release)
        prepared = await prepare(service, lease, body)
        events = _events(service, lease, prepared, request.state.started)
        cleanup.push_async_callback(events.aclose)
        if not prepared.body.stream:
            return Response(await while_connected(request, _whole(events, prepared)), 200, headers, "application/json")
        first = await while_connected(request, anext(events))
        return EventStream(_stream(first, events, prepared), headers, cleanup.pop_all())
    raise AssertionError("unreachable: the exit stack suppresses nothing")


def _events(service: Service, lease: Lease, prepared: Prepared, started: float) -> AsyncGenerator[Event, None]:
    served = lease.adapter is None or service.registry.get(lease.name) is not None  # perhaps removed since it was resolved
    series = service.metrics.model(lease.name, served=served)
    generation = prepared.generation
    series.prompt_tokens.inc(generation.counts.prompt)
    series.prompt_length.observe(generation.counts.prompt)
    log.debug(
        "request",
        id=prepared.envelope.id,
        model=lease.name,
        version="base" if lease.answers is None else lease.answers.short,
        prompt_tokens=generation.counts.prompt,
        answers=len(generation.requests),
        queued_ms=round((time.perf_counter() - started) * 1e3, 2),
    )
    options = text_options(prepared.body)
    return generation.run(service.engine, service.base.tokens, options, RequestTimer(series, started))


async def _whole(events: AsyncGenerator[Event, None], prepared: Prepared) -> bytes:
    async for event in events:
        prepared.writer.collect(event)
    return prepared.writer.body(prepared.generation.counts)


async def _stream(first: Event, events: AsyncGenerator[Event, None], prepared: Prepared) -> AsyncGenerator[bytes, None]:
    writer, options = prepared.writer, prepared.body.stream_options
    yield writer.event(first)
    async for event in events:
        yield writer.event(event)
    if options is not None and options.include_usage:
        yield writer.usage(prepared.generation.counts)
    yield DONE
