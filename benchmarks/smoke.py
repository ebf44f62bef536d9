"""First speed check: 32 requests in flight over the base and over 16 adapters of rank 16 on all projections, then one stream.

    python -m benchmarks.smoke MODEL_FOLDER

Prints output tokens per second, TTFT and TPOT for each with the machine's limits beside them; writes nothing."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.bench_speed import requests_of
from benchmarks.campaign import Campaign
from benchmarks.cases import BASE, MIXED, ONE_STREAM, ONE_STREAM_ADAPTER
from benchmarks.checkpoints import SCRATCH, Checkpoints
from benchmarks.command import run
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.results import Results
from benchmarks.tables import speed_page

CASES = (BASE, MIXED, ONE_STREAM, ONE_STREAM_ADAPTER)


def main(model: Path) -> None:
    """Serves, measures, prints."""
    ours, console = Ours(), Console()
    results = Results(machine(), {ours.name: ours.version}, rounds=1)
    Campaign(CASES, Checkpoints(SCRATCH, model), results, requests_of, lambda: None, console).run([ours], rounds=1)
    console.print(speed_page(results), soft_wrap=True, markup=False)


if __name__ == "__main__":
    run(main)
