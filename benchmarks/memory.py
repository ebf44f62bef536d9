"""The memory of a process and of all it started."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

PERIOD_SECONDS = 1.0


def memory_of(pid: int) -> int:
    """Bytes held by a process and its descendants; a page shared by some of them counts once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_full_info().pss
    return total


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """A list of samples that grows while the block lasts."""
    samples = [memory_of(pid)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD_SECONDS):
            samples.append(memory_of(pid))

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
