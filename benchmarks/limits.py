"""The floor of a load on this machine, from probes taken beside the measurement."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case
from benchmarks.loads import Sample


def probe(case: Case) -> Any:
    """What memory and arithmetic give at this moment, with the instruction set of a case; None without probes in this build."""
    return None


def limit_of(case: Case, probes: Any) -> Sample | None:
    """The best that any program could do on this load: tokens per second, first token, time per token."""
    return None
