"""Frames between processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from manylora.engine.channel import Channel, ChannelClosed, frame
from manylora.engine.config import EngineConfig
from manylora.engine.messages import Abort, EngineStart, Fault, Submit, ToEngine
from manylora.errors import AdapterRejected, RequestError
from manylora.types.request import Request, SamplingParams

MESSAGES = [
    EngineStart(EngineConfig(model=Path("m"), merge=Path("a"), max_model_len=7), "scalar"),
    Submit(Request("r", [1, 2, 3], SamplingParams(logit_bias={5: -1.0}, stop_token_ids=(1, 2)), "hash", "tenant")),
    Abort("r"),
]


def test_messages_arrive_whole_however_the_bytes_are_cut() -> None:
    """A frame split at any byte is one message, and several in one piece are several."""
    stream = b"".join(map(frame, MESSAGES))
    for cut in range(1, len(stream), 7):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            channel = Channel(theirs, ToEngine)
            ours.sendall(stream[:cut])
            got = channel.receive(wait=False)
            ours.sendall(stream[cut:])
            assert got + channel.receive(wait=False) == MESSAGES


def test_what_a_dead_peer_sent_is_still_received() -> None:
    """Messages that were sent before the peer ended are not lost with it; then the end is reported."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(theirs, ToEngine)
        ours.sendall(frame(MESSAGES[2]))
        ours.close()
        assert channel.receive(wait=True) == [MESSAGES[2]]
        with pytest.raises(ChannelClosed):
            channel.receive(wait=False)


def test_sending_never_waits_for_the_reader() -> None:
    """The engine must not stop because the server is slow: what the socket does not take waits in memory, in order."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Channel(ours, ToEngine), Channel(theirs, ToEngine)
        big = [Submit(Request(str(number), list(range(20000)), SamplingParams())) for number in range(20)]
        for message in big:
            sender.send(message)
        got = []
        while len(got) < len(big):
            got += receiver.receive(wait=False)
            sender.flush()
        assert got == big


def test_faults_cross_as_the_exceptions_they_are() -> None:
    """Type, words and parameter of an error survive the way to another process."""
    for error in (AdapterRejected("no"), RequestError("bad", "prompt")):
        back = Fault.of(error).raised()
        assert (type(back), str(back), getattr(back, "param", None)) == (type(error), str(error), getattr(error, "param", None))
