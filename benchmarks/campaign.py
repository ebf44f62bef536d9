"""Runs cases on engines: whole rounds, one engine at a time, so that what drifts drifts for all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Engine, Running, warm_up
from benchmarks.limits import limit_of, probe
from benchmarks.loads import MeasurementFailed, asks, measure
from benchmarks.memory import peak_memory
from benchmarks.ours import Ours
from benchmarks.results import Memory, Results
from manylora.engine.checkpoint.base import expected_tensors
from manylora.engine.checkpoint.open import open_checkpoint
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
                self.results.row(case, engine.name)  # in this order they are shown
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
            with self.console.status(f"starting and warming up {engine.name}") as status, ExitStack() as stack:
                running = stack.enter_context(engine.running(cases, self.checkpoints, log))
                if isinstance(engine, Ours):
                    stack.enter_context(self._memory_watched(cases[0], running.pid))
                warm_up(running.answer, cases, self.checkpoints)
                for case in cases:
                    status.update(f"{engine.name}: {case.name}")
                    done.append(case)
                    self._measure(engine, running, case, turn)
        except (MeasurementFailed, ServerDidNotStart, RuntimeError, subprocess.SubprocessError) as error:
            for case in [case for case in cases if case not in done]:
                self._refuse(engine, case, str(error).splitlines()[-1])

    def _measure(self, engine: Engine, running: Running, case: Case, turn: int) -> None:
        row = self.results.row(case, engine.name)
        vocabulary = self.checkpoints.vocabulary(case.model)
        for repeat in range(engine.repeats):
            requests = asks(case, vocabulary, 1 + turn * engine.repeats + repeat, self.count(case))
            probes = probe(case) if isinstance(engine, Ours) else None
            try:
                sample = measure(running.answer, requests, case.concurrency)
            except MeasurementFailed as error:
                self._refuse(engine, case, str(error))
                return
            row.samples.append(sample)
            limit = limit_of(case, probes)
            row.limits += [limit] if limit else []
            times = f"first token {sample.ttft * 1e3:.0f} ms, then {sample.tpot * 1e3:.1f} ms each"
            self.console.print(f"  {case.name}: {sample.throughput:.1f} tokens/s, {times}", soft_wrap=True)
            self.save()

    def _refuse(self, engine: Engine, case: Case, reason: str) -> None:
        self.results.row(case, engine.name).reason = reason
        self.console.print(f"  [yellow]{engine.name} on {case.name}: {reason}[/]", soft_wrap=True)
        self.save()

    @contextmanager
    def _memory_watched(self, case: Case, pid: int) -> Iterator[None]:
        """Keeps the most that our server, started for `case`, ever held."""
        with peak_memory(pid) as samples:
            yield
        name = ", ".join(
            map(str, filter(None, (case.model, case.quantization, case.isa, "" if case.prefix_cache else "no prefix cache")))
        )
        weights = weight_bytes(self.checkpoints.base(case.model), case.quantization)
        before = self.results.memory.get(name)
        peak = max([*samples, before.peak if before else 0])
        self.results.memory[name] = Memory(name, peak, Ours.budget(case.model), weights)


def weight_bytes(folder: Path, quantization: str) -> int:
    """Bytes of a model's parameters as products read them, the embedding table with them: two each, or one in int8."""
    shape = open_checkpoint(folder).shape
    sizes = {name: _elements(dims) for name, dims in expected_tensors(shape).items()}
    table = sizes.pop("model.embed_tokens.weight")
    head = table if shape.tied_embeddings else 0
    return 2 * table + (sum(sizes.values()) + head) * (1 if quantization == "int8" else 2)


def _elements(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
