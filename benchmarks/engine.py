"""The contract of an engine under measurement."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.loads import Answering, asks, measure

WARM_OUTPUT = 4
WARM_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class Running:
    """A started engine: how to ask it, and its process."""

    answer: Answering
    pid: int


class Engine(Protocol):
    """Something that answers the requests of cases. Cases with equal `start` share one process."""

    name: str
    version: str
    repeats: int
    """Measurements of a case in a row: the quick can afford more than one."""

    def refusal(self, case: Case) -> str | None:
        """Why it cannot do this case, if it cannot."""

    def start(self, case: Case) -> Hashable:
        """How it must be started for this case; modifies nothing."""

    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> AbstractContextManager[Running]:
        """Runs it, started for `cases` (all with the same `start`), while the block lasts. Raises ServerDidNotStart."""


def warm_up(answer: Answering, cases: Sequence[Case], checkpoints: Checkpoints) -> None:
    """Every adapter and every kind of prompt once, so that nothing is loaded, compiled or cached for the first time later."""
    seen: set[object] = set()
    for case in cases:
        kind = (tuple(case.adapter_names), case.prompt, case.system)
        if kind not in seen:
            seen.add(kind)
            count = max(case.adapters, min(case.concurrency, WARM_REQUESTS))
            requests = asks(case, checkpoints.vocabulary(case.model), seed=0, count=count)
            short = [type(ask)(ask.adapter, ask.prompt, WARM_OUTPUT) for ask in requests]
            measure(answer, short, min(case.concurrency, count))
