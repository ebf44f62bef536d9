"""Servers as child processes of benchmarks and tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manylora.loadgen.server_process import ServerDidNotStart, free_port, serving


def test_a_server_that_ends_at_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """Nobody waits for a server that is already gone."""
    command = [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"]
    with (
        pytest.raises(ServerDidNotStart, match=r"exit code 3:\nno such model"),
        serving(command, f"http://127.0.0.1:{free_port()}", tmp_path / "log"),
    ):
        pass
