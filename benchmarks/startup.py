"""How soon our server is ready, and the most memory it takes from its start to the end of a short load.

    python -m benchmarks.startup MODEL_FOLDER

Writes benchmarks/results/startup.json and startup.md after every server. The model of the 1B shape is in it if another benchmark
has made it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.cases import MIXED, Case, changed
from benchmarks.checkpoints import SCRATCH, Checkpoints
from benchmarks.command import run
from benchmarks.loads import asks, measure
from benchmarks.machine import machine
from benchmarks.memory import PeakMemory, weight_bytes
from benchmarks.ours import Ours
from benchmarks.results import RESULTS
from benchmarks.tables import number, table, verdict
from manylora.errors import ManyloraError

LOAD = replace(MIXED, output=8)
STARTS = 5
IDLE_SECONDS = 3.0
MEMORY_GIB = {"smol": 1, "1b": 1}
READY_SECONDS = {"smol": 3.0}
OVERHEAD = 300e6
"""Of memory, beside weights and budget."""
ABOUT = f"""\
`ready` is from starting the process to the first 200 of `/health`, without adapters, after a start that is not counted: median of
{STARTS} (least to most). `peak` is the most that all processes held at once, looked at fifty times a second from the start of
another server to the end of a load on it ({LOAD.name}) and of some idle seconds, in which it readies
the rest of its budget. Pages of the model's file count from their reading until the last weight is packed, although the system
may drop them at any moment. `weights` are the packed products and the embedding table.
"""


@dataclass(slots=True)
class Startup:
    """One server: `seconds` of each start, and bytes."""

    case: Case
    peak: int
    weights: int
    budget: int
    seconds: list[float] = field(default_factory=list)

    @property
    def beside(self) -> int:
        """Bytes that are neither weights nor budget; less than nothing if not all of it was used."""
        return self.peak - self.weights - self.budget


def started(case: Case, checkpoints: Checkpoints) -> Startup:
    """Puts the load on one server, then only starts others. Raises MeasurementFailed or ServerDidNotStart."""
    ours, log = Ours(MEMORY_GIB), checkpoints.folder / "logs" / "startup.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    requests = asks(case, checkpoints.vocabulary(case.model), 1, case.concurrency)
    with PeakMemory("serve") as memory, ours.running([case], checkpoints, log) as running:
        measure(running.answer, requests, case.concurrency)
        time.sleep(IDLE_SECONDS)
    found = Startup(case, memory.bytes, weight_bytes(checkpoints.base(case.model), case.quantization), ours.budget(case.model))
    for _ in range(STARTS):
        began = time.perf_counter()
        with ours.running([replace(case, adapters=0)], checkpoints, log):
            found.seconds.append(time.perf_counter() - began)
    return found


def page(found: Sequence[Startup], about: dict[str, str | int]) -> str:
    """Seconds and megabytes, each with its verdict."""
    head = ["server", "ready, s", "wanted", "reached", "peak, MB", "weights", "`--memory`", "beside them", "wanted", "reached"]
    rows = []
    for each in found:
        middle, most = median(each.seconds), READY_SECONDS.get(each.case.model)
        seconds = f"{number(middle)} ({number(min(each.seconds))} to {number(max(each.seconds))})"
        ready = [seconds, *((f"at most {most:g}", verdict(middle <= most)) if most else ("", ""))]
        sizes = [f"{size / 1e6:.0f}" for size in (each.peak, each.weights, each.budget, each.beside)]
        bound = [f"at most {OVERHEAD / 1e6:.0f}", verdict(each.beside <= OVERHEAD)]
        rows.append([f"{each.case.model}, {each.case.quantization}", *ready, *sizes, *bound])
    where = f"{about['date']}, {about['cpu']}, {about['cpus']} CPUs, {about['isa']}; commit {about['commit']}"
    return f"# Start and memory\n\n{where}.\n\n{ABOUT}\n{table(head, rows)}"


def main(
    model: Annotated[Path, typer.Argument(help="The small real model: a Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measures, and writes the page as it goes."""
    console, about, checkpoints = Console(), machine(), Checkpoints(SCRATCH, model)
    found: list[Startup] = []
    out.mkdir(parents=True, exist_ok=True)
    small = (LOAD, *changed((LOAD,), quantization="int8"))
    large = changed(small, model="1b") if (checkpoints.folder / "1b" / "config.json").is_file() else ()
    for case in (*small, *large):
        name = f"{case.model}, {case.quantization}"
        try:
            with console.status(name):
                found.append(started(case, checkpoints))
        except ManyloraError as error:
            console.print(f"[yellow]{name}: {error}[/]", soft_wrap=True)
            continue
        console.print(f"{name}: ready after {median(found[-1].seconds):.2f} s", soft_wrap=True)
        stored = {"machine": about, "servers": [asdict(each) for each in found]}
        (out / "startup.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        (out / "startup.md").write_text(page(found, about), encoding="utf-8")


if __name__ == "__main__":
    run(main)
