"""Entry point of the engine's child processes: `python -m manylora.engine.process engine|loader FD`."""

from __future__ import annotations

import signal
import socket
import sys


def main(role: str, descriptor: int) -> None:
    """Runs one role over the inherited socket until its parent is gone."""
    # The parent decides when to end: a Ctrl-C on the terminal reaches the whole group, and requests must still finish or fail.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported here because each role needs only its own half.
    from manylora.engine.channel import Channel
    from manylora.engine.messages import ToEngine, ToLoader

    sock = socket.socket(fileno=descriptor)
    if role == "engine":
        from manylora.engine.loop import run_engine

        run_engine(Channel(sock, ToEngine))
    else:
        from manylora.engine.loader import run_loader

        run_loader(Channel(sock, ToLoader))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
