"""Ours and other engines on the same loads, in turn and repeated.

    python -m benchmarks.bench_peers MODEL_FOLDER [--quick] [--only TEXT] [--engine NAME] [--rounds N]

Sets the others up below `.peers/` if they are not. Writes benchmarks/results/peers.json and peers.md after every measurement;
with one of the first three options only the rows that it chooses are measured anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.campaign import Campaign
from benchmarks.cases import QUICK, SHARED, Case, unique
from benchmarks.checkpoints import SCRATCH, Checkpoints
from benchmarks.command import run
from benchmarks.engine import Engine
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.peft import Peft
from benchmarks.peers.vllm import Vllm
from benchmarks.results import RESULTS, Results, continued
from benchmarks.tables import peers_page


def requests_of(case: Case) -> int:
    """As many as are in flight or as there are adapters, so that the slowest takes a minute or two; lone ones a few."""
    return max(case.concurrency, case.adapters) if case.concurrency > 1 else 8 if case.is_first_token else 2


def main(
    model: Annotated[Path, typer.Argument(help="The small real model: a Hugging Face folder.")],
    quick: Annotated[bool, typer.Option(help="Only the headline loads: about 25 minutes.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    only: Annotated[str, typer.Option(help="Only loads whose name has this text.")] = "",
    engine: Annotated[list[str] | None, typer.Option(help="Only these engines (ours is always there); repeat for more.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measures, and writes the page as it goes."""
    engines: list[Engine] = [Ours(), Vllm(), LlamaCpp(), Peft()]
    chosen = [each for each in engines if not engine or each.name in engine or isinstance(each, Ours)]
    cases = [case for case in unique(QUICK if quick else SHARED) if only in case.name]
    versions, manners = {each.name: each.version for each in chosen}, {each.name: each.manner for each in chosen}
    results = Results(machine(), versions, rounds, manners)
    if quick or only or engine:
        results = continued(results, out / "peers.json")
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results.save(out / "peers.json")
        (out / "peers.md").write_text(peers_page(results), encoding="utf-8")

    Campaign(cases, Checkpoints(SCRATCH, model), results, requests_of, save, Console()).run(chosen, rounds)
    save()


if __name__ == "__main__":
    run(main)
