"""One child process of the server, and the asyncio end of the socket to it."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Any

from manylora.engine.channel import HEADER_BYTES, decoder, frame
from manylora.engine.messages import Message

STOP_SECONDS = 5.0
"""How long a child may take to end by itself once its socket is closed."""


class Child:
    """A running `manylora.engine.process`. It ends when its socket closes, so it cannot outlive the server."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Any
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._decoder = decoder(kind)

    @classmethod
    async def start(cls, role: str, first: Message, incoming: Any) -> Child:
        """Starts a child for a role and sends its first message."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "manylora.engine.process", role, str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, stdout=2,
                # Out of the terminal's group: Ctrl-C is the parent's to handle, also before the child could ignore it.
                start_new_session=True,
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer, incoming)
        child.send(first)
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Never blocks. To a dead child: nothing happens; whoever receives learns of its death."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def receive(self) -> Any:
        """The next message; None when the child is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(HEADER_BYTES), "little")
            return self._decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def kill(self) -> None:
        """Ends the process at once; whoever receives learns of its death."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> int:
        """Closes the socket, waits for the process to end, and makes it end if it does not. Its exit code."""
        self._writer.close()
        try:
            return await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
            return await self._process.wait()
