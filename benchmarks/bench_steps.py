"""Where the time of our engine's steps goes, by its own step log; and how fast attention reads at a context of 2,048.

    python -m benchmarks.bench_steps MODEL_FOLDER

Writes benchmarks/results/steps.json and steps.md after every load."""

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
from benchmarks.command import run
from benchmarks.engine import warm_up
from benchmarks.limits import best_of, costs_of, probe_for, shape_of
from benchmarks.loads import MeasurementFailed, asks, measure
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.results import RESULTS
from benchmarks.tables import number, table, verdict
from manylora.errors import ConfigError, ManyloraError
from manylora.metrics.step_log import Part, StepRecord, read_step_log

LOADS = (BASE, MIXED, ONE_STREAM, ONE_STREAM_ADAPTER, CONTEXT_2048)
AROUND_IN_FLIGHT, AROUND_AT_MOST = 32, 0.05
"""So many requests in flight are to leave at most this share of a step to what is no kernel."""
ATTENTION_CASES = (CONTEXT_2048, *changed((CONTEXT_2048,), quantization="int8"))
ATTENTION_AT_LEAST = 0.60
"""Of the bandwidth of sequential reads, in these cases."""
KERNELS = ("base", "lora", "attention", "elementwise")
BUSY: tuple[str, ...] = tuple(part for part in get_args(Part) if part != "idle")


@dataclass(slots=True)
class Breakdown:
    """The mean of some steps of one case: milliseconds of each part, and what the steps held."""

    case: str
    concurrency: int
    steps: str
    """Which: those that only decode, or all."""
    count: int
    rows: float
    milliseconds: dict[str, float] = field(default_factory=dict)
    attention_bandwidth: float = 0.0
    """Bytes of keys and values a second, in steps that only decode."""
    bandwidth: float = 0.0
    """What probes read beside the measurement, bytes per second; 0 if attention was not looked at."""

    @property
    def wall(self) -> float:
        """Milliseconds of a step, idle time aside."""
        return sum(self.milliseconds[part] for part in BUSY)

    @property
    def around_kernels(self) -> float:
        """The share of a step that is no kernel: scheduling, messages, the interpreter, sampling."""
        return 1 - sum(self.milliseconds[part] for part in KERNELS) / self.wall


def broken_down(case: Case, steps: str, records: Sequence[StepRecord]) -> Breakdown:
    """The mean of `records`. Raises MeasurementFailed if there are none."""
    if not records:
        raise MeasurementFailed("the step log has no step of the measurement")
    count = len(records)
    parts = {part: sum(getattr(record, f"{part}_ns") for record in records) / count / 1e6 for part in get_args(Part)}
    return Breakdown(case.name, case.concurrency, steps, count, sum(record.rows for record in records) / count, parts)


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
    token_bytes = costs_of(shape_of(checkpoints.base(case.model)), case.quantization).token_bytes
    return breakdowns(case, records, token_bytes, bandwidth)


def shares(found: Sequence[Breakdown]) -> list[list[str]]:
    """What is bounded, the bound, and whether it is kept."""
    rows = []
    attention_cases = [case.name for case in ATTENTION_CASES]
    for each in found:
        if each.concurrency == AROUND_IN_FLIGHT:
            held = verdict(each.around_kernels <= AROUND_AT_MOST)
            name = f"around kernels: {each.case}; {each.steps}"
            rows.append([name, f"{each.around_kernels:.1%}", f"at most {AROUND_AT_MOST:.0%}", held])
        if each.bandwidth and each.case in attention_cases:
            share = each.attention_bandwidth / each.bandwidth
            held = verdict(share >= ATTENTION_AT_LEAST)
            name = f"attention, of sequential reads: {each.case}"
            rows.append([name, f"{share:.0%}", f"at least {ATTENTION_AT_LEAST:.0%}", held])
    return rows


def page(found: Sequence[Breakdown], about: dict[str, str | int]) -> str:
    """The verdicts, milliseconds of each part, and attention's bandwidth."""
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
        f"nor elementwise operations.\n\n## Shares\n\n{table(['what', 'share', 'wanted', 'reached'], shares(found))}\n"
        f"## Every load\n\n{table(head, rows)}\n## Attention in steps that only decode, GB/s\n\n"
        f"{table(['load', 'keys and values', 'sequential reads', 'of it'], reads)}"
    )


def main(
    model: Annotated[Path, typer.Argument(help="The small real model: a Hugging Face folder.")],
    only: Annotated[str, typer.Option(help="Only loads whose name has this text.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measures each load on a server of its own, and writes the page as it goes."""
    if only and (out / "steps.json").is_file():
        raise ConfigError(f"{out / 'steps.json'} would be overwritten by a part of the loads: name another folder with --out")
    console, about = Console(), machine()
    found: list[Breakdown] = []
    out.mkdir(parents=True, exist_ok=True)
    for case in (*LOADS, *changed(LOADS, quantization="int8")):
        if only not in case.name:
            continue
        try:
            with console.status(case.name):
                found += measured(case, Checkpoints(SCRATCH, model))
        except ManyloraError as error:
            console.print(f"[yellow]{case.name}: {error}[/]", soft_wrap=True)
            continue
        console.print(f"{case.name}: {found[-1].wall:.1f} ms a step ({found[-1].steps})", soft_wrap=True)
        (out / "steps.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")
        (out / "steps.md").write_text(page(found, about), encoding="utf-8")


if __name__ == "__main__":
    run(main)
