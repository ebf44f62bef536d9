"""First speed check: 32 requests in flight over the base and over 16 adapters of rank 16 on all seven projections.

    python -m benchmarks.smoke MODEL_FOLDER

Prints output tokens per second, TTFT and TPOT for each, and the arithmetic's floor beside them. Random prompts of 128 tokens,
64 new tokens each, greedy, end tokens ignored. Loads alternate; the medians of the rounds are shown."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.random_adapters import PROJECTIONS, write_adapter
from manylora.loadgen.client import LoadRequest, LoadResult
from manylora.loadgen.closed_loop import run_closed_loop
from manylora.loadgen.server_process import free_port, serving

ADAPTERS, RANK, PROMPT, OUTPUT, CONCURRENCY, REQUESTS, ROUNDS = 16, 16, 128, 64, 32, 64, 3


def load(models: list[str], vocab: int, seed: int, count: int = REQUESTS) -> list[LoadRequest]:
    """Requests that go round the models, each with its own random prompt."""
    prompts = np.random.default_rng(seed).integers(100, vocab, (count, PROMPT)).tolist()
    fixed = {"max_tokens": OUTPUT, "temperature": 0, "ignore_eos": True}
    return [LoadRequest({"model": models[i % len(models)], "prompt": prompts[i], **fixed}) for i in range(count)]


def measure(url: str, requests: list[LoadRequest], concurrency: int) -> tuple[float, float, float]:
    """(output tokens per second, median TTFT in seconds, median TPOT in seconds) of one closed loop."""
    results: list[LoadResult] = asyncio.run(run_closed_loop(url, requests, concurrency))
    errors = [result.error for result in results if result.error]
    assert not errors, errors[0]
    assert all(result.output_tokens == OUTPUT for result in results), "output lengths differ"
    seconds = max(result.ended for result in results) - min(result.sent for result in results)
    tokens = sum(result.output_tokens for result in results)
    return tokens / seconds, median(result.ttft for result in results), median(result.tpot for result in results)


def main(model: Path) -> None:
    """Serves, measures, prints."""
    config = json.loads((model / "config.json").read_text())
    names = [f"a{number}" for number in range(ADAPTERS)]
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [write_adapter(Path(scratch) / name, config, RANK, list(PROJECTIONS), seed) for seed, name in enumerate(names)]
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "manylora",
            "serve",
            str(model),
            "--port",
            str(port),
            "--served-model-name",
            "base",
        ]
        for name, folder in zip(names, folders, strict=True):
            command += ["--adapter", f"{name}={folder}"]
        rows: dict[str, list[tuple[float, float, float]]] = {}
        cases = [("base", ["base"], CONCURRENCY), (f"mixed, {ADAPTERS} adapters", names, CONCURRENCY)]
        cases += [("base, one at a time", ["base"], 1), ("one adapter, one at a time", names[:1], 1)]
        with serving(command, url, Path(scratch) / "server.log"), console.status("warming up") as status:
            measure(url, load([*names, "base"], config["vocab_size"], 99, 32), CONCURRENCY)
            for turn in range(ROUNDS):
                for label, models, concurrency in cases:
                    status.update(f"round {turn + 1} of {ROUNDS}: {label}")
                    requests = load(models, config["vocab_size"], turn, REQUESTS if concurrency > 1 else 2)
                    rows.setdefault(label, []).append(measure(url, requests, concurrency))
    table = Table("load", "output tok/s", "TTFT p50", "TPOT p50", title=f"{PROMPT} in, {OUTPUT} out, {CONCURRENCY} in flight")
    for label, values in rows.items():
        speed, ttft, tpot = (median(column) for column in zip(*values, strict=True))
        table.add_row(label, f"{speed:.0f}", f"{ttft * 1e3:.0f} ms", f"{tpot * 1e3:.1f} ms")
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
