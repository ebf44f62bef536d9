"""The requests of a case, and what is read off their answers."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cases import Case
from manylora.errors import ManyloraError
from manylora.loadgen.client import LoadRequest, LoadResult
from manylora.loadgen.closed_loop import run_closed_loop

FIRST_PLAIN_TOKEN = 100
"""Below are special tokens."""


class MeasurementFailed(ManyloraError):
    """An engine answered with an error, or not with as many tokens as it was asked for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: to which adapter (None: the base), which tokens, and how many new ones, neither more nor less."""

    adapter: str | None
    prompt: list[int]
    output: int


Answering = Callable[[Sequence[Ask], int], list[LoadResult]]
"""Answers requests, so many at a time, and tells how."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: output tokens per second over all requests, and medians over requests in seconds, if they are known."""

    throughput: float
    ttft: float | None
    tpot: float | None


def asks(case: Case, vocabulary: int, seed: int, count: int) -> list[Ask]:
    """`count` requests. The same arguments give the same ones; other seeds other prompts, but the same shared beginnings."""
    random = np.random.default_rng([zlib.crc32(case.name.encode()), seed])
    names = case.adapter_names or [None]
    shared = {name: _tokens(np.random.default_rng([number]), vocabulary, case.system) for number, name in enumerate(names)}
    chosen = [names[number % len(names)] for number in range(count)]
    return [Ask(name, shared[name] + _tokens(random, vocabulary, case.prompt), case.output) for name in chosen]


def _tokens(random: np.random.Generator, vocabulary: int, count: int) -> list[int]:
    return [int(token) for token in random.integers(FIRST_PLAIN_TOKEN, vocabulary, count)]


def over_http(url: str, fields: Callable[[Ask], dict[str, Any]]) -> Answering:
    """Answers of a server with OpenAI's completions route. `fields` say what differs between servers: how to name an adapter."""

    def answer(requests: Sequence[Ask], concurrency: int) -> list[LoadResult]:
        bodies = [{**_body(ask), **fields(ask)} for ask in requests]
        return asyncio.run(run_closed_loop(url, [LoadRequest(body) for body in bodies], concurrency))

    return answer


def _body(ask: Ask) -> dict[str, Any]:
    return {
        "prompt": ask.prompt,
        "max_tokens": ask.output,
        "temperature": 0,
        "ignore_eos": True,
        "skip_special_tokens": False,  # a first token without text could not be timed
    }


def measure(answer: Answering, requests: Sequence[Ask], concurrency: int) -> Sample:
    """One closed loop. Raises MeasurementFailed."""
    return sample_of(answer(requests, concurrency), requests)


def sample_of(results: Sequence[LoadResult], requests: Sequence[Ask]) -> Sample:
    """What the answers come to. Raises MeasurementFailed if one failed or has another length than asked for."""
    for result, ask in zip(results, requests, strict=True):
        if result.error:
            raise MeasurementFailed(result.error)
        if result.output_tokens != ask.output:
            raise MeasurementFailed(f"asked for {ask.output} tokens, got {result.output_tokens}")
    seconds = max(result.ended for result in results) - min(result.sent for result in results)
    tokens = sum(result.output_tokens for result in results)
    timed = [result for result in results if result.arrivals]  # tokens without any text cannot be timed
    if not timed:
        return Sample(tokens / seconds, None, None)
    return Sample(tokens / seconds, median(result.ttft for result in timed), median(result.tpot for result in timed))


def middle(samples: Sequence[Sample]) -> Sample:
    """The median of each figure over the samples that have it."""
    ttfts = [sample.ttft for sample in samples if sample.ttft is not None]
    tpots = [sample.tpot for sample in samples if sample.tpot is not None]
    throughput = median(sample.throughput for sample in samples)
    return Sample(throughput, median(ttfts) if ttfts else None, median(tpots) if tpots else None)
