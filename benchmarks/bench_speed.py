"""Our own server over the whole matrix, each figure beside what the machine allows.

    python -m benchmarks.bench_speed MODEL_FOLDER [--only TEXT] [--rounds N]

Writes benchmarks/results/speed.json and speed.md after every measurement; `--only` measures rows of them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.campaign import Campaign
from benchmarks.cases import OWN, Case, unique
from benchmarks.checkpoints import SCRATCH, Checkpoints
from benchmarks.command import run
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.results import RESULTS, Results, continued
from benchmarks.tables import speed_page

LONG_PROMPT = 1024


def requests_of(case: Case) -> int:
    """Twice as many as are in flight, so that prefill and decode mix as they do under load; of long prompts once."""
    if case.concurrency == 1:
        return 24 if case.is_first_token else 6
    return case.concurrency if case.prompt > LONG_PROMPT else 2 * case.concurrency


def main(
    model: Annotated[Path, typer.Argument(help="The small real model: a Hugging Face folder.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    only: Annotated[str, typer.Option(help="Only loads whose name has this text.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measures, and writes the page as it goes."""
    ours = Ours()
    ours.repeats = 1
    cases = [case for case in unique(OWN) if only in case.name]
    results = Results(machine(), {ours.name: ours.version}, rounds)
    if only:
        results = continued(results, out / "speed.json")
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results.save(out / "speed.json")
        (out / "speed.md").write_text(speed_page(results), encoding="utf-8")

    Campaign(cases, Checkpoints(SCRATCH, model), results, requests_of, save, Console()).run([ours], rounds)
    save()


if __name__ == "__main__":
    run(main)
