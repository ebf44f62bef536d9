"""Where a request's outputs wait for its consumer. Outputs that come faster than they are taken are merged, never dropped."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from manylora.errors import ManyloraError
from manylora.types.request import RequestOutput


class Mailbox:
    """One request's outputs. Written by the engine's reader, read by one consumer."""

    def __init__(self) -> None:
        self._waiting: RequestOutput | None = None
        self._error: ManyloraError | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Adds what one step made."""
        self._waiting = output if self._waiting is None else _merge(self._waiting, output)
        self._arrived.set()

    def fail(self, error: ManyloraError) -> None:
        """Ends the request with an error, after what has come."""
        self._error = error
        self._arrived.set()

    async def get(self) -> RequestOutput:
        """Everything since the last call. Raises the error of `fail`."""
        await self._arrived.wait()
        output, self._waiting = self._waiting, None
        if output is None:
            assert self._error is not None
            raise self._error
        if self._error is None:
            self._arrived.clear()
        return output


def _merge(first: RequestOutput, second: RequestOutput) -> RequestOutput:
    logprobs = None if first.logprobs is None else first.logprobs + (second.logprobs or [])
    prompt_logprobs = first.prompt_logprobs or second.prompt_logprobs
    return replace(second, tokens=first.tokens + second.tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
