"""What one engine step does, as a value: counts and opaque block ids, never tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    """A request starts (or restarts after a preemption): the KV blocks it holds, of which the first `cached` tokens are already
    computed."""

    id: str
    blocks: tuple[int, ...]
    cached: int


@dataclass(frozen=True, slots=True)
class Growth:
    """More KV blocks for a running request, appended to those it holds."""

    id: str
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefill:
    """Computes the known tokens [start, start + count) of a request. `samples` when they reach the last known one."""

    id: str
    start: int
    count: int
    samples: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Applied in the order of the fields. Every id in `decodes` computes its one newest token and samples the next."""

    preempted: tuple[str, ...] = ()
    grown: tuple[Growth, ...] = ()
    admitted: tuple[Admission, ...] = ()
    prefills: tuple[Prefill, ...] = ()
    decodes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Token rows of the forward pass."""
        return len(self.decodes) + sum(chunk.count for chunk in self.prefills)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.decodes and not self.prefills
