"""The machine and the versions behind a table."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from manylora import kernels


def machine() -> dict[str, str | int]:
    """What a reader needs to judge the figures."""
    cpus = len(os.sched_getaffinity(0))
    return {
        "cpu": _cpu_name(),
        "cpus": cpus,
        "isa": kernels.choose_capability(os.environ),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The last commit to what is measured, with a plus if files differ from it; empty outside a checkout."""
    commit = _git("log", "-1", "--abbrev=10", "--format=%h")
    return commit + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*command: str) -> str:
    """What git says of everything but results and documents."""
    paths = ("--", ".", ":!benchmarks/results", ":!docs")
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(("git", *command, *paths), capture_output=True, text=True, check=False, cwd=root).stdout.strip()
