"""How every benchmark is started from a shell."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from manylora.errors import ManyloraError


def run(main: Callable[..., None]) -> None:
    """Runs `main` with the options of the command line. SIGTERM leaves it like an exception, so that the servers it started end
    with it; one of our own errors is one line."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        typer.run(main)
    except ManyloraError as error:
        sys.exit(str(error))
