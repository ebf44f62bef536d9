"""The loads that the floors are of, put on a server of the product's own."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from manylora.errors import LoadFailed
from manylora.loadgen.client import LoadRequest, LoadResult
from manylora.loadgen.closed_loop import run_closed_loop
from manylora.loadgen.server_process import free_port, serving
from manylora.roofline.loads import ClosedLoop

WAVES = 3
"""Requests of the closed loop, in multiples of its concurrency: its beginning and its end are not full."""
LONE_REQUESTS = 3
BASE = "manylora/base"
"""The base model's name: no adapter can have it, because of the slash."""

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Achieved:
    """What a server did, seen from a client on the same machine. Times in seconds, medians over requests."""

    output_tokens_per_second: float
    ttft: float
    tpot: float | None
    """Of the tokens after the first; None where answers have but one."""
    lone_ttft: float
    lone_tpot: float | None


def achieve(model: Path, adapters: Sequence[tuple[str, Path]], load: ClosedLoop, vocab: int, options: Sequence[str],
            on_progress: OnProgress) -> Achieved:  # fmt: skip
    """Starts a server of the model and the adapters with further `options`, warms it up, and runs the loads.

    Raises LoadFailed, or ServerDidNotStart."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "manylora", "serve", str(model), "--port", str(port), "--served-model-name", BASE, *options]
    for name, path in adapters:
        command += ["--adapter", f"{name}={path}"]
    prompts = _Prompts(load, [name for name, _ in adapters] or [BASE], vocab)
    on_progress("starting the server")
    with tempfile.TemporaryDirectory() as scratch, serving(command, url, Path(scratch) / "server.log"):
        on_progress("warming up")
        _run(url, load, prompts.take(load.concurrency), load.concurrency)
        on_progress("one request at a time")
        lone = _run(url, load, prompts.take(LONE_REQUESTS), 1)
        count = WAVES * load.concurrency
        done = [0]

        def arrived(result: LoadResult) -> None:
            done[0] += 1
            on_progress(f"{load.concurrency} in flight: {done[0]} of {count} requests")

        results = _run(url, load, prompts.take(count), load.concurrency, arrived)
    seconds = max(result.ended for result in results) - min(result.sent for result in results)
    return Achieved(
        output_tokens_per_second=sum(result.output_tokens for result in results) / seconds,
        ttft=median(map(_ttft, results)),
        tpot=median(map(_tpot, results)) if load.output > 1 else None,
        lone_ttft=median(map(_ttft, lone)),
        lone_tpot=median(map(_tpot, lone)) if load.output > 1 else None,
    )


class _Prompts:
    """Requests that go round the models, each with a random prompt of its own, so that no cache of prefixes helps."""

    def __init__(self, load: ClosedLoop, models: list[str], vocab: int) -> None:
        self._load, self._models, self._vocab = load, models, vocab
        self._random = np.random.default_rng(0)
        self._taken = 0

    def take(self, count: int) -> list[LoadRequest]:
        # Special tokens have text here: an arrival cannot be timed without.
        fixed = {"max_tokens": self._load.output, "temperature": 0, "ignore_eos": True, "skip_special_tokens": False}
        prompts = self._random.integers(0, self._vocab, (count, self._load.prompt)).tolist()
        names = [self._models[(self._taken + number) % len(self._models)] for number in range(count)]
        self._taken += count
        return [LoadRequest({"model": name, "prompt": prompt, **fixed}) for name, prompt in zip(names, prompts, strict=True)]


def _run(url: str, load: ClosedLoop, requests: list[LoadRequest], concurrency: int, *on_result: Any) -> list[LoadResult]:
    results = asyncio.run(run_closed_loop(url, requests, concurrency, *on_result))
    for result in results:
        if result.error is not None:
            raise LoadFailed(f"a request of the load failed: {result.error}")
        if result.output_tokens != load.output:
            raise LoadFailed(f"a request of the load asked for {load.output} tokens and got {result.output_tokens}")
    return results


def _ttft(result: LoadResult) -> float:
    """An answer may be without text: tokens need not be."""
    return result.ttft if result.arrivals else result.ended - result.sent


def _tpot(result: LoadResult) -> float:
    """Of an answer of several tokens. Fewer than two pieces of text tell no time between tokens: then its whole time counts."""
    return result.tpot if len(result.arrivals) > 1 else (result.ended - result.sent) / result.output_tokens
