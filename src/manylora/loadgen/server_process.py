"""A server as a child process: started, awaited until healthy, ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from manylora.errors import ManyloraError

POLL_SECONDS = 0.05
STOP_SECONDS = 15.0


class ServerDidNotStart(ManyloraError):
    """The process ended, or was not healthy in time. The message ends with its last lines."""


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    command: Sequence[str], url: str, log: Path, timeout: float = 120.0, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` with its output in `log` while the block lasts; enters it once `url`/health answers 200.

    `environment` adds to this process's own. Raises ServerDidNotStart."""
    variables = {**os.environ, **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=variables
        )
        try:
            _await_healthy(process, url, log, timeout)
            yield process
        finally:
            _end(process)


def _await_healthy(process: subprocess.Popen[bytes], url: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerDidNotStart(f"the server ended with exit code {process.returncode}:\n{_tail(log)}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=2.0):
            return
        time.sleep(POLL_SECONDS)
    raise ServerDidNotStart(f"the server was not healthy after {timeout:.0f} s:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session is its own: whatever it left behind
    process.wait()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
