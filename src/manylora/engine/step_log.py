"""Writes the step log: charges every nanosecond of the engine's thread to a part, and a step's parts to its record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from manylora import kernels
from manylora.errors import ConfigError
from manylora.metrics.step_log import Part, StepRecord
from manylora.types.step import StepPlan

PENDING_BYTES = 1 << 16
"""Written at once when so many have come together, or when the engine is idle: a step almost never waits for the disk."""

Charge = Callable[[Part], None]
"""Told what the time since it was last told was spent on."""


def unlogged(part: Part) -> None:
    """The Charge of an engine without a step log."""


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step did."""

    plan: StepPlan
    adapters: int
    """Distinct ones."""
    context_tokens: int
    """Positions attended to, summed over the rows."""


class StepLog:
    """One per engine process. The file is appended to; if it can no longer be written, the log ends and the engine goes on."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file cannot be written."""
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"--step-log {path}: cannot be written: {error.strerror or error}; name another file") from error
        self._encoder = msgspec.json.Encoder()
        self._pending = bytearray()
        self._runtime: kernels.Runtime | None = None
        self._spent: dict[Part, int] = {}
        self._since = 0

    def begin(self, runtime: kernels.Runtime) -> None:
        """Time counts from now on; the parts of the operations are the runtime's own."""
        runtime.measure()
        self._runtime = runtime
        self._since = time.monotonic_ns()

    def charge(self, part: Part) -> None:
        """The time since the last charge was spent on `part`; `python` means the forward pass, whose operations are split off."""
        now = time.monotonic_ns()
        self._spent[part] = self._spent.get(part, 0) + now - self._since
        self._since = now

    def write(self, step: StepFigures) -> None:
        """Ends a step's record."""
        assert self._runtime is not None
        spent, self._spent = self._spent, {}
        operations = self._runtime.take_times()
        parts = {
            "messages_ns": spent.get("messages", 0),
            "scheduling_ns": spent.get("scheduling", 0),
            **{f"{part}_ns": nanoseconds for part, nanoseconds in operations.items()},
            "python_ns": spent.get("python", 0) - sum(operations.values()),
            "sampling_ns": spent.get("sampling", 0),
            "other_ns": spent.get("other", 0),
        }
        plan = step.plan
        record = StepRecord(
            end_ns=self._since,
            rows=plan.rows,
            prefill_tokens=plan.rows - len(plan.decodes),
            decodes=len(plan.decodes),
            samples=len(plan.decodes) + sum(chunk.samples for chunk in plan.prefills),
            context_tokens=step.context_tokens,
            sequences=len(plan.decodes) + len(plan.prefills),
            adapters=step.adapters,
            idle_ns=spent.get("idle", 0),
            wall_ns=sum(parts.values()),
            **parts,
        )
        self._pending += self._encoder.encode(record) + b"\n"
        if len(self._pending) >= PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, in whole lines. A fault, such as a full disk, is one line on stderr; then nothing is written any
        more."""
        written = 0
        try:
            while written < len(self._pending) and not self._file.closed:
                written += os.write(self._file.fileno(), self._pending[written:])
        except OSError as error:
            print(f"step log {self._file.name} ends here: {error.strerror or error}", file=sys.stderr, flush=True)
            with suppress(OSError):  # what is no file cannot be cut
                self._file.truncate(self._file.tell() - (written - 1 - self._pending.rfind(b"\n", 0, written)))
            self._file.close()
        self._pending.clear()

    def close(self) -> None:
        """Writes what waits; then nothing is written any more."""
        self.flush()
        self._file.close()
