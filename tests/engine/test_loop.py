"""The engine's own loop over its socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from manylora.engine.channel import Channel, frame
from manylora.engine.loop import serve
from manylora.engine.messages import Abort, ToEngine
from tests.engine.harness import start


def test_an_idle_engine_checks_its_books(tiny: Path, images: Path) -> None:
    """A lost block is found when the engine is next idle, and ends it: the server starts a sound one. Nothing leaks for weeks."""
    core = start(tiny, images).core
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame(Abort("nobody")))
        core._scheduler.blocks._extents.take_blocks(1)
        with pytest.raises(AssertionError, match="KV blocks lost"):
            serve(core, Channel(theirs, ToEngine))
