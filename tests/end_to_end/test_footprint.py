"""What a server takes of the machine: nearly no processor while nobody asks, and no more memory than it says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.memory import PeakMemory
from manylora.engine.checkpoint import open_checkpoint
from manylora.roofline.cost import ModelCosts
from tests.end_to_end.live_server import LiveServer, in_background, start, until

DEMO = Path(__file__).resolve().parent.parent.parent / "demo" / "adapters"
BUDGET = 256 << 20
OVERHEAD = 300e6
"""Of memory, beside the packed weights and the budget: three interpreters, a tokenizer, the buffers of a step."""


def ticks(processes: list[psutil.Process]) -> float:
    """Seconds of processor time that they have used, all threads."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def test_an_idle_server_rests(server: LiveServer) -> None:
    """Server, engine and loader together use less than 3 % of a core when nobody asks: nothing polls, no thread spins on.
    Processor time is counted, so that neighbours do not matter."""
    server.complete("all4")
    processes = [psutil.Process(server.pid), *server.children()]
    assert len(processes) >= 3
    until(lambda: server.metric("num_requests_running") == 0, "nothing is running")
    time.sleep(1.0)
    before, seconds = ticks(processes), 4.0
    time.sleep(seconds)
    assert ticks(processes) - before < 0.03 * seconds


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_memory_is_weights_and_budget_and_little_else(smollm2: Path, tmp_path: Path, quantization: str) -> None:
    """From the start to a load with six adapters no unpacked copy of the model, no hoard of freed memory and no buffer without a
    bound shows up. The packed copies of adapters in shared memory come on top: they are files."""
    costs = ModelCosts(open_checkpoint(smollm2).shape, quantization)
    name = f"footprint-{os.getpid()}"
    named = [part for folder in sorted(DEMO.iterdir()) for part in ("--adapter", f"{folder.name}={folder}")]
    options = [*named, "--memory", BUDGET, "--max-model-len", 2048, "--quantization", quantization]
    options += ["--served-model-name", name]
    with PeakMemory(name) as peak, start(smollm2, tmp_path / "log", *options) as server:
        names = server.names()
        assert len(names) == 7

        def ask(number: int) -> None:
            server.answer(names[number % 7], [number + 50 * i for i in range(300)], max_tokens=16)

        for answered in [in_background(lambda number=number: ask(number)) for number in range(28)]:
            answered()
    weights = costs.layer_bytes + costs.head_bytes
    assert weights + BUDGET < peak.bytes < weights + BUDGET + OVERHEAD
