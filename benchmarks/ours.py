"""Our own server as an engine under measurement."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import manylora
from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Running
from benchmarks.loads import Ask, over_http
from manylora.loadgen.server_process import free_port, serving

MEMORY_GIB = {"smol": 4, "1b": 2}
"""Room for every adapter of the matrix, and for the KV of 32 requests of 2,112 tokens (small model) or 64 of 192."""


class Ours:
    """Served by this interpreter's manylora, with further `options` if there are any."""

    name = "manylora"
    manner = "one server with all adapters of the table loaded; two measurements a round"
    repeats = 2

    def __init__(self, memory_gib: Mapping[str, int] = MEMORY_GIB, options: Sequence[str] = ()) -> None:
        self.version = manylora.__version__
        self._memory_gib = memory_gib
        self._further = options

    def budget(self, model: str) -> int:
        """Bytes of `--memory`."""
        return self._memory_gib[model] << 30

    def refusal(self, case: Case) -> str | None:
        return None

    def start(self, case: Case) -> tuple[str, str, bool, str]:
        return case.model, case.quantization, case.prefix_cache, case.isa

    @contextlib.contextmanager
    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> Iterator[Running]:
        model, quantization, prefix_cache, isa = self.start(cases[0])
        port = free_port()
        command = [sys.executable, "-m", "manylora", "serve", str(checkpoints.base(model)), "--port", str(port)]
        command += ["--served-model-name", "base", "--memory", f"{self._memory_gib[model]}GiB"]
        command += ["--quantization", quantization] * (quantization != "bf16") + ["--no-prefix-cache"] * (not prefix_cache)
        command += self._further
        for name, folder in checkpoints.adapters(model, list(cases)).items():
            command += ["--adapter", f"{name}={folder}"]
        url = f"http://127.0.0.1:{port}"
        with serving(command, url, log, environment={"MANYLORA_ISA": isa} if isa else {}) as process:
            yield Running(over_http(url, fields), process.pid)


def fields(ask: Ask) -> dict[str, object]:
    """How a request names its adapter."""
    return {"model": ask.adapter or "base"}
