"""Runs cases on engines: whole rounds, one engine at a time, so that what drifts drifts for all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Engine, Running, warm_up
from benchmarks.limits import best_of, limit_of, probe_for, shape_of
from benchmarks.loads import MeasurementFailed, Sample, asks, measure
from benchmarks.memory import memory_of, weight_bytes
from benchmarks.ours import Ours
from benchmarks.results import Memory, Probes, Results
from manylora.loadgen.server_process import ServerDidNotStart


@dataclass(frozen=True, slots=True)
class Campaign:
    """What stays the same from round to round. `count`: the requests of a case. `save` is called after each result."""

    cases: Sequence[Case]
    checkpoints: Checkpoints
    results: Results
    count: Callable[[Case], int]
    save: Callable[[], None]
    console: Console

    def run(self, engines: Sequence[Engine], rounds: int) -> None:
        """Every engine in every round; every other round backwards."""
        for case in self.cases:
            for engine in engines:
                self.results.renew(case, engine.name)  # in this order they are shown
        for turn in range(rounds):
            for engine in engines[:: -1 if turn % 2 else 1]:
                for cases in self._starts(engine):
                    self.console.print(
                        f"[bold]round {turn + 1} of {rounds}: {engine.name}[/], {len(cases)} loads", soft_wrap=True
                    )
                    self._run_start(engine, cases, turn)

    def _starts(self, engine: Engine) -> list[list[Case]]:
        """The engine's cases, those together that share a process."""
        groups: dict[Hashable, list[Case]] = {}
        for case in self.cases:
            reason = engine.refusal(case)
            if reason is None:
                groups.setdefault(engine.start(case), []).append(case)
            elif not self.results.row(case, engine.name).reason:
                self._refuse(engine, case, reason)
        return list(groups.values())

    def _run_start(self, engine: Engine, cases: Sequence[Case], turn: int) -> None:
        log = self.checkpoints.folder / "logs" / f"{engine.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        done: list[Case] = []
        try:
            with (
                self.console.status(f"starting and warming up {engine.name}") as status,
                engine.running(cases, self.checkpoints, log) as running,
            ):
                warm_up(running.answer, cases, self.checkpoints)
                for case in cases:
                    status.update(f"{engine.name}: {case.name}")
                    self._measure(engine, running, case, turn)
                    done.append(case)
                    if isinstance(engine, Ours):
                        self._note_memory(engine, case, running.pid)
        except (MeasurementFailed, ServerDidNotStart, RuntimeError, subprocess.SubprocessError) as error:
            for case in [case for case in cases if case not in done]:
                self._refuse(engine, case, str(error).splitlines()[-1])

    def _measure(self, engine: Engine, running: Running, case: Case, turn: int) -> None:
        row = self.results.row(case, engine.name)
        vocabulary = self.checkpoints.vocabulary(case.model)
        for repeat in range(engine.repeats):
            requests = asks(case, vocabulary, 1 + turn * engine.repeats + repeat, self.count(case))
            try:
                if case.system and case.prefix_cache:
                    warm_up(running.answer, [case], self.checkpoints)  # other loads may have pushed the shared beginnings out
                before = probe_for(case) if isinstance(engine, Ours) else None
                sample = measure(running.answer, requests, case.concurrency)
            except MeasurementFailed as error:
                self._refuse(engine, case, str(error))
                return
            row.samples.append(sample)
            if before is not None:
                machine = best_of(before, probe_for(case))
                row.probes.append(Probes(machine.bandwidth.best, machine.bf16_peak.best, machine.int8_peak.best))
                limit = limit_of(case, shape_of(self.checkpoints.base(case.model)), machine)
                row.limits += [limit] if limit else []
            self.console.print(f"  {case.name}: {described(sample)}", soft_wrap=True)
            self.save()

    def _refuse(self, engine: Engine, case: Case, reason: str) -> None:
        self.results.row(case, engine.name).reason = reason
        self.console.print(f"  [yellow]{engine.name} on {case.name}: {reason}[/]", soft_wrap=True)
        self.save()

    def _note_memory(self, ours: Ours, case: Case, pid: int) -> None:
        """Keeps the most that our server, started as for `case`, was ever seen to hold. Not looked at while time is taken."""
        parts = (case.model, case.quantization, case.isa, "" if case.prefix_cache else "no prefix cache")
        name = ", ".join(filter(None, parts))
        before = self.results.memory.get(name)
        peak = max(memory_of(pid), before.peak if before else 0)
        weights = weight_bytes(self.checkpoints.base(case.model), case.quantization)
        self.results.memory[name] = Memory(name, peak, ours.budget(case.model), weights)


def described(sample: Sample) -> str:
    """A measurement in words."""
    ttft, tpot = (f"{value * 1e3:.1f} ms" if value is not None else "unknown" for value in (sample.ttft, sample.tpot))
    return f"{sample.throughput:.1f} tokens/s, first token {ttft}, then {tpot} each"
