"""A benchmark as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import os, sys, time
from pathlib import Path
from benchmarks.command import run
from manylora.errors import ConfigError
from manylora.loadgen.server_process import free_port, serving

def main(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"there is no {folder}")
    (folder / "health").touch()
    os.chdir(folder)
    port = str(free_port())
    command = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]
    with serving(command, f"http://127.0.0.1:{port}", folder / "log") as server:
        print(server.pid, flush=True)
        time.sleep(60)

run(main)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """The script above on a folder."""
    pipe, variables = subprocess.PIPE, os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=pipe, stderr=pipe, text=True, env=variables)


def test_a_benchmark_that_is_told_to_end_takes_its_server_with_it(tmp_path: Path) -> None:
    """A server left behind would take the processors from whatever is measured next."""
    with start(tmp_path) as benchmark:
        assert benchmark.stdout is not None
        server = int(benchmark.stdout.readline())
        assert psutil.pid_exists(server)
        benchmark.terminate()
        assert benchmark.wait(30) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(server)


def test_our_own_errors_are_one_line(tmp_path: Path) -> None:
    """Whoever mistypes reads what to do, not a traceback."""
    with start(tmp_path / "none") as benchmark:
        assert benchmark.communicate(timeout=30)[1] == f"there is no {tmp_path / 'none'}\n"
        assert benchmark.returncode == 1
