"""What the machine at hand can do: probed, not looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from manylora import kernels
from manylora.errors import ConfigError

READ_BYTES = 512 << 20
"""More than the caches of any core complex keep between two passes."""
PROBE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes or operations per second, of several tries."""

    best: float
    median: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What one instruction set and number of threads reach. An operation is a multiplication or an addition."""

    capability: str
    threads: int
    bandwidth: Rate
    """Sequential reads of memory in huge pages, bytes per second."""
    bf16_peak: Rate
    """Products of bfloat16 that never leave the registers, operations per second."""
    int8_peak: Rate


def probe(capability: str, threads: int, read_bytes: int = READ_BYTES) -> Machine:
    """Measures for about a second. Raises ConfigError if the system has no `read_bytes` of memory to read."""
    runtime = kernels.Runtime(threads, capability)
    try:
        arena = kernels.Arena(read_bytes)
    except MemoryError as error:
        raise ConfigError(f"probing memory takes {read_bytes >> 20} MiB, which the system does not give: free some") from error
    arena.array[:] = 1  # pages that were never written are all the same one
    return Machine(
        capability,
        threads,
        bandwidth=_repeated(lambda: kernels.probe_read(runtime, arena)),
        bf16_peak=_repeated(lambda: kernels.probe_bf16_products(runtime)),
        int8_peak=_repeated(lambda: kernels.probe_int8_products(runtime)),
    )


def best_of(before: Machine, after: Machine) -> Machine:
    """What the machine showed that it can do around a measurement: neighbours slow it down, nothing speeds it up."""
    pairs = [(getattr(before, name), getattr(after, name)) for name in ("bandwidth", "bf16_peak", "int8_peak")]
    return Machine(before.capability, before.threads, *(Rate(max(a.best, b.best), max(a.median, b.median)) for a, b in pairs))


def _repeated(measure: Callable[[], float]) -> Rate:
    rates = [measure()]
    end = time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end:
        rates.append(measure())
    return Rate(max(rates), median(rates))
