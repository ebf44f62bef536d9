"""Where the time of our engine's steps goes, by its own step log; and how fast attention reads at a context of 2,048.

    python -m benchmarks.bench_steps MODEL_FOLDER

Writes benchmarks/results/steps.json and steps.md."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from benchmarks.bench_speed import requests_of
from benchmarks.cases import BASE, CONTEXT_2048, MIXED, ONE_STREAM, ONE_STREAM_ADAPTER, Case, changed
from benchmarks.checkpoints import SCRATCH, Checkpoints
from benchmarks.engine import warm_up
from benchmarks.limits import best_of, probe_for, shape_of
from benchmarks.loads import asks, measure
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.results import RESULTS
from benchmarks.tables import number, table
from manylora.metrics.step_log import Part, StepRecord, read_step_log
from manylora.roofline.cost import ModelCosts

LOADS = (BASE, MIXED, ONE_STREAM, ONE_STREAM_ADAPTER, CONTEXT_2048)
KERNELS = ("base", "lora", "attention", "elementwise")
BUSY: tuple[str, ...] = tuple(part for part in get_args(Part) if part != "idle")


@dataclass(slots=True)
class Breakdown:
    """The mean of some steps of one case: milliseconds of each part, and what the steps held."""

    case: str
    steps: str
    """Which: those that only decode, or all."""
    count: int
    rows: float
    milliseconds: dict[str, float] = field(default_factory=dict)
    attention_bandwidth: float = 0.0
    """Bytes of keys and values a second, in steps that only decode."""
    bandwidth: float = 0.0
    """What probes read beside the measurement, bytes per second."""

    @property
    def wall(self) -> float:
        """Milliseconds of a step, idle time aside."""
        return sum(self.milliseconds[part] for part in BUSY)

    @property
    def around_kernels(self) -> float:
        """The share of a step that is no kernel: scheduling, messages, the interpreter, sampling."""
        return 1 - sum(self.milliseconds[part] for part in KERNELS) / self.wall


def broken_down(case: Case, steps: str, records: Sequence[StepRecord]) -> Breakdown:
    """The mean of `records`, of which there must be some."""
    count = len(records)
    parts = {part: sum(getattr(record, f"{part}_ns") for record in records) / count / 1e6 for part in get_args(Part)}
    return Breakdown(case.name, steps, count, sum(record.rows for record in records) / count, parts)


def breakdowns(case: Case, records: Sequence[StepRecord], token_bytes: int, bandwidth: float) -> list[Breakdown]:
    """Of all steps of a measurement, and of those that only decode with every request in flight."""
    decodes = [record for record in records if not record.prefill_tokens and record.decodes == case.concurrency]
    found = [broken_down(case, "all", records)]
    if decodes:
        found.append(broken_down(case, "decode only", decodes))
        seconds = sum(record.attention_ns for record in decodes) / 1e9
        found[1].attention_bandwidth = sum(record.context_tokens for record in decodes) * token_bytes / seconds
        found[1].bandwidth = bandwidth
    return found


def measured(case: Case, checkpoints: Checkpoints) -> list[Breakdown]:
    """Serves one case with a step log and reads it. Raises MeasurementFailed or ServerDidNotStart."""
    log = checkpoints.folder / "logs" / "steps.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    requests = asks(case, checkpoints.vocabulary(case.model), 1, requests_of(case))
    with Ours(options=("--step-log", str(log))).running([case], checkpoints, log.with_suffix(".log")) as running:
        warm_up(running.answer, [case], checkpoints)
        before = probe_for(case)
        began = time.monotonic_ns()
        measure(running.answer, requests, case.concurrency)
        ended = time.monotonic_ns()
        bandwidth = best_of(before, probe_for(case)).bandwidth.best
    records = [record for record in read_step_log(log) if began < record.end_ns - record.wall_ns and record.end_ns < ended]
    return breakdowns(case, records, ModelCosts(shape_of(checkpoints.base(case.model))).token_bytes, bandwidth)


def page(found: Sequence[Breakdown], about: dict[str, str | int]) -> str:
    """Milliseconds of each part, and attention's bandwidth."""
    head = ["load", "steps", "rows", "ms", *BUSY, "around kernels", "idle before"]
    rows = []
    for each in found:
        parts = [number(each.milliseconds[part]) for part in BUSY]
        share, idle = f"{each.around_kernels:.1%}", number(each.milliseconds["idle"])
        rows.append([each.case, each.steps, number(each.rows), number(each.wall), *parts, share, idle])
    reads = []
    for each in [each for each in found if each.bandwidth]:
        reached, possible = each.attention_bandwidth, each.bandwidth
        reads.append([each.case, number(reached / 1e9), number(possible / 1e9), f"{reached / possible:.0%}"])
    return (
        f"# Where the time of a step goes\n\n{about['date']}, {about['cpu']}, {about['cpus']} CPUs, {about['isa']}; "
        f"commit {about['commit']}. Means over steps, milliseconds; `around kernels` is all that is neither products, attention "
        f"nor elementwise operations.\n\n{table(head, rows)}\n## Attention in steps that only decode, GB/s\n\n"
        f"{table(['load', 'keys and values', 'sequential reads', 'of it'], reads)}"
    )


def main(
    model: Annotated[Path, typer.Argument(help="The small real model: a Hugging Face folder.")],
    only: Annotated[str, typer.Option(help="Only loads whose name has this text.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measures each load on a server of its own, then writes the page."""
    console, found, about = Console(), [], machine()
    for case in (*LOADS, *changed(LOADS, quantization="int8")):
        reason = Ours().refusal(case)
        if reason is not None:
            console.print(f"[yellow]{case.name}: {reason}[/]", soft_wrap=True)
        elif only in case.name:
            with console.status(case.name):
                found += measured(case, Checkpoints(SCRATCH, model))
            console.print(f"{case.name}: {found[-1].wall:.1f} ms a step ({found[-1].steps})", soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "steps.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")
    (out / "steps.md").write_text(page(found, about), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
