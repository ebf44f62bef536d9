"""Chat templates that adapters brought, rendered in a process of their own, which may die of them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from manylora.errors import AdapterRejected, AdapterUnavailable, EngineStopped, RequestError
from manylora.server.template_worker import HEADER_BYTES, RENDER_SECONDS, frame

_TOO_LONG = f"the adapter's chat template takes more than {RENDER_SECONDS:g} s of processor time"


class _TimeUp(Exception):
    """The process ended because a template used up its time."""


class TemplateProcess:
    """Renders for all adapters, one at a time. Of one template at most one order waits for the process, whatever its clients ask
    for, so that a slow one delays another's by one render and not by its whole queue. Started when first needed."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._one_order = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process, if one is running."""
        return None if self._process is None else self._process.pid

    async def check(self, source: str) -> None:
        """Raises AdapterRejected if `source` is no template, or takes too long to compile."""
        try:
            reply = await self._reply(source, {"source": source, "special_tokens": {}})
        except _TimeUp:
            raise AdapterRejected(_TOO_LONG) from None
        if "invalid" in reply:
            raise AdapterRejected(reply["invalid"])

    async def render(
        self, source: str, special_tokens: Mapping[str, str], messages: list[dict[str, Any]], options: Mapping[str, Any]
    ) -> str:
        """As `ChatTemplate.render`. Raises RequestError, also when it takes too long, and AdapterUnavailable."""
        order = {"source": source, "special_tokens": dict(special_tokens), "messages": messages, "options": dict(options)}
        try:
            reply = await self._reply(source, order)
        except _TimeUp:
            raise RequestError(f"{_TOO_LONG} for these messages", "messages") from None
        if "text" in reply:
            return str(reply["text"])
        raise RequestError(reply.get("refused") or reply["invalid"], reply.get("param", "messages"))

    async def close(self) -> None:
        """Ends the process; what waits for it ends with EngineStopped or AdapterUnavailable."""
        self._closed = True
        if self._process is not None:
            await self._end(self._process)

    async def _reply(self, source: str, order: dict[str, Any]) -> dict[str, Any]:
        try:
            message = frame(order)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the messages cannot be given to the adapter's chat template: {error}", "messages") from error
        turn = self._turns.setdefault(source, asyncio.Lock())
        async with turn, self._one_order:
            return await self._exchange(await self._running(), message)

    async def _exchange(self, process: asyncio.subprocess.Process, message: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message)
            await process.stdin.drain()
            size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "little")
            reply: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._forget(process)
            code = await process.wait()
            if code == -signal.SIGPROF:
                raise _TimeUp from None
            raise AdapterUnavailable(f"the process that renders chat templates ended with exit code {code}; try again") from None
        except BaseException:  # given up half-way: its reply would be taken for the next one's
            await self._end(process)
            raise
        if reply.pop("last"):
            await self._end(process)
        return reply

    async def _running(self) -> asyncio.subprocess.Process:
        if self._closed:
            raise EngineStopped("the server is stopping")
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "manylora.server.template_worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is the server's to handle
            )  # fmt: skip
        return self._process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._forget(process)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def _forget(self, process: asyncio.subprocess.Process) -> None:
        if self._process is process:
            self._process = None
