"""What processes hold of memory, and what a server must."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil

from benchmarks.limits import costs_of, shape_of
from manylora.roofline.cost import BF16_BYTES

SAMPLE_SECONDS = 0.02


def memory_of(pid: int) -> int:
    """Bytes held by a process and its descendants; a page shared by some of them counts once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_full_info().pss
    return total


class PeakMemory:
    """The most that `memory_of` ever gave, looked at many times a second, for the children of this process that have a certain
    word in their command line."""

    def __init__(self, word: str) -> None:
        self.bytes = 0
        self._word = word
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error, OSError):
                children = [child for child in psutil.Process().children() if self._word in child.cmdline()]
                self.bytes = max(self.bytes, sum(memory_of(child.pid) for child in children))


def weight_bytes(folder: Path, quantization: str) -> int:
    """Bytes of a model's packed products and of its embedding table, which stands beside them whether it is tied or not."""
    costs = costs_of(shape_of(folder), quantization)
    return costs.layer_bytes + costs.head_bytes + costs.head_weights * BF16_BYTES
