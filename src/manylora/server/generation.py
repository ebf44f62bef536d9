"""Fan-out of one HTTP request into engine requests, one per prompt and choice, and their answers as one stream of deltas.

However the stream ends (all answers done, an error, a client gone, a cancelled task), every engine request has been closed by
the time it has ended, and so aborted if it was still running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import cast

from manylora.errors import EngineDied, ManyloraError, RequestAborted
from manylora.metrics.server import AnswerClock, RequestTimer
from manylora.server.text.answer import Answer, Delta, TextOptions
from manylora.server.text.token_bytes import TokenBytes
from manylora.types.engine import Engine
from manylora.types.request import Request, RequestOutput, SamplingParams, TokenLogprob


@dataclass(slots=True)
class Event:
    """Something new of answer `index`. `prompt_logprobs` come once, with an answer's first event, when they were asked for."""

    index: int
    delta: Delta | None
    prompt_logprobs: list[TokenLogprob | None] | None = None


@dataclass(slots=True)
class Counts:
    """Tokens of one HTTP request so far."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Sequence:
    """One prompt of the request, with the new tokens it may have."""

    prompt: list[int]
    max_tokens: int | None


class Generation:
    """All answers of one HTTP request: answer `index` is choice `index % n` of prompt `index // n`."""

    def __init__(self, id: str, adapter: str | None, sequences: list[Sequence], sampling: SamplingParams, n: int) -> None:
        self.requests = [
            Request(
                id=f"{id}-{place * n + choice}",
                prompt=sequence.prompt,
                sampling=replace(sampling, max_tokens=sequence.max_tokens, choice=choice),
                adapter=adapter,
                tenant=adapter or "",
            )
            for place, sequence in enumerate(sequences)
            for choice in range(n)
        ]
        self._n = n
        self.counts = Counts(prompt=sum(len(sequence.prompt) for sequence in sequences))

    async def run(
        self, engine: Engine, tokens: TokenBytes, options: TextOptions, timer: RequestTimer
    ) -> AsyncGenerator[Event, None]:
        """Every event of every answer, in the order it happened. Raises what the engine raises."""
        streams = [self._one(index, engine, tokens, options, timer) for index in range(len(self.requests))]
        source = streams[0] if len(streams) == 1 else merged(streams)
        async with aclosing(source):
            async for event in source:
                yield event

    async def _one(
        self, index: int, engine: Engine, tokens: TokenBytes, options: TextOptions, timer: RequestTimer
    ) -> AsyncGenerator[Event, None]:
        answer = Answer(tokens, options)
        clock = timer.answer()
        outputs = cast("AsyncGenerator[RequestOutput, None]", engine.generate(self.requests[index]))
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    delta = self._take(index, output, answer, clock)
                    if delta is not None or output.prompt_logprobs is not None:
                        yield Event(index, delta, output.prompt_logprobs)
                    if delta is not None and delta.finish_reason is not None:
                        clock.finished(delta.finish_reason)
                        return
        except (GeneratorExit, asyncio.CancelledError):
            clock.aborted()
            raise
        raise EngineDied("the engine ended this request without finishing it")

    def _take(self, index: int, output: RequestOutput, answer: Answer, clock: AnswerClock) -> Delta | None:
        if output.finish_reason == "error":
            raise ManyloraError(output.error or "the engine failed on this request")
        if output.finish_reason == "abort":
            raise RequestAborted(output.error or "the engine gave up this request")
        before = answer.token_count
        delta = answer.push(output)
        clock.tokens(answer.token_count - before)
        self.counts.completion += answer.token_count - before
        if before == 0 and index % self._n == 0:  # every output says it; prompts are counted once, not once per choice
            self.counts.cached += output.cached_tokens
        return delta


async def merged(streams: list[AsyncGenerator[Event, None]]) -> AsyncGenerator[Event, None]:
    """The events of several streams as they come. The first error ends them all."""
    queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()

    async def pump(stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    queue.put_nowait(event)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
