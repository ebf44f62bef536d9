"""Frames over a local socket, for the two processes that poll instead of running an event loop."""

from __future__ import annotations

import select
import socket
from collections import deque
from typing import Any

import msgspec

from manylora.engine.messages import Message

HEADER_BYTES = 4


class ChannelClosed(Exception):
    """The process at the other end is gone."""


def frame(message: Message) -> bytes:
    """The message as bytes on the wire: its length (4 bytes, little endian), then MessagePack."""
    body = msgspec.msgpack.encode(message, enc_hook=_encode)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Decodes bodies of one union of messages."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode)


class Channel:
    """The engine's and the loader's end. Sending never blocks: what the peer does not take yet waits in memory."""

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder = decoder(incoming)
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()

    def send(self, message: Message) -> None:
        """Queues a message and sends as much as the peer takes."""
        self._unsent.append(memoryview(frame(message)))
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as the peer takes it. Raises ChannelClosed."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelClosed from error
            if sent == len(self._unsent[0]):
                self._unsent.popleft()
            else:
                self._unsent[0] = self._unsent[0][sent:]

    def receive(self, *, wait: bool) -> list[Any]:
        """Every whole message that has come; with `wait`, sleeps until there is one.

        Raises ChannelClosed once the peer is gone and all that it sent has been returned."""
        while True:
            closed = self._read()
            messages = self._whole_messages()
            if messages or not (wait or closed):
                return messages
            if closed:
                raise ChannelClosed
            select.select([self._socket], [self._socket] if self._unsent else [], [])
            self.flush()

    def _read(self) -> bool:
        """Takes in what has come; whether the peer is gone."""
        while True:
            try:
                chunk = self._socket.recv(1 << 16)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not chunk:
                return True
            self._received += chunk

    def _whole_messages(self) -> list[Any]:
        messages: list[Any] = []
        start = 0
        while len(self._received) - start >= HEADER_BYTES:
            end = start + HEADER_BYTES + int.from_bytes(self._received[start : start + HEADER_BYTES], "little")
            if len(self._received) < end:
                break
            messages.append(self._decoder.decode(self._received[start + HEADER_BYTES : end]))
            start = end
        del self._received[:start]
        return messages


def _encode(value: Any) -> Any:
    # Paths are the only values in messages that MessagePack has no form for.
    return str(value)


def _decode(kind: type, value: Any) -> Any:
    return kind(value)
