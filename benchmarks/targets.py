"""Ratios that are to be reached, as data: what over what, and the bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.cases import (
    BASE,
    LONE_PROMPT,
    MIXED,
    ONE_ADAPTER,
    ONE_STREAM,
    ONE_STREAM_ADAPTER,
    RESIDENT_64,
    SYSTEM,
    Case,
)
from benchmarks.results import Figure, Results

OURS, LIMIT, BEST_PEER = "manylora", "limit", "best peer"


@dataclass(frozen=True, slots=True)
class Target:
    """`over` divided by `under`, each an engine on a case, is to be `at_least` or `at_most` so much."""

    name: str
    figure: Figure
    over: tuple[str, Case]
    under: tuple[str, Case]
    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, results: Results) -> float | None:
        """The ratio of the medians; None if either was not measured."""
        over, under = (_value(results, self.figure, *side) for side in (self.over, self.under))
        return None if over is None or not under else over / under

    def holds(self, ratio: float) -> bool:
        """Whether the bound is kept."""
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)


def _value(results: Results, figure: Figure, engine: str, case: Case) -> float | None:
    if engine != BEST_PEER:
        return results.figure(case, engine, figure)
    values = [results.figure(case, name, figure) for name in results.engines if name != results.ours]
    known = [value for value in values if value is not None]
    best = max if figure == "throughput" else min
    return best(known) if known else None


def _ours(name: str, figure: Figure, over: Case, under: Case, **bound: float) -> Target:
    return Target(name, figure, (OURS, over), (OURS, under), **bound)


def _limit(name: str, figure: Figure, case: Case, **bound: float) -> Target:
    return Target(name, figure, (OURS, case), (LIMIT, case), **bound)


INT8 = replace(MIXED, quantization="int8")
LARGE = replace(MIXED, model="1b")

AGAINST_PEERS = (
    Target("16 adapters, against vLLM", "throughput", (OURS, MIXED), ("vLLM", MIXED), at_least=10),
    Target("16 adapters, against the best peer", "throughput", (OURS, MIXED), (BEST_PEER, MIXED), at_least=7),
    Target("base, against vLLM with LoRA off", "throughput", (OURS, BASE), ("vLLM", BASE), at_least=1.4),
    Target("base, against llama.cpp", "throughput", (OURS, BASE), ("llama.cpp", BASE), at_least=4),
    Target("one stream, against the best peer", "tpot", (OURS, ONE_STREAM), (BEST_PEER, ONE_STREAM)),
    Target(
        "one stream with an adapter, against the best peer", "tpot", (OURS, ONE_STREAM_ADAPTER), (BEST_PEER, ONE_STREAM_ADAPTER)
    ),
    Target("16 adapters in int8, against llama.cpp in q8_0", "throughput", (OURS, INT8), ("llama.cpp", INT8)),
)
AGAINST_OURSELVES = (
    _limit("16 adapters, of the limit", "throughput", MIXED, at_least=0.70),
    _limit("base, of the limit", "throughput", BASE),
    _ours("16 adapters, of the base's throughput", "throughput", MIXED, BASE, at_least=0.86),
    _ours("1 adapter, of the base's throughput", "throughput", ONE_ADAPTER, BASE, at_least=0.92),
    _limit("one stream, time per token over the limit", "tpot", ONE_STREAM, at_most=1.15),
    _ours("one stream, time per token with an adapter over without", "tpot", ONE_STREAM_ADAPTER, ONE_STREAM, at_most=1.10),
    _limit("lone prompt of 512, first token over the limit", "ttft", LONE_PROMPT, at_most=1.25),
    _ours("16 adapters, int8 over bf16", "throughput", INT8, MIXED, at_least=1.4),
    _ours(
        "one stream, time per token bf16 over int8", "tpot", ONE_STREAM, replace(ONE_STREAM, quantization="int8"), at_least=1.7
    ),
    _ours("64 adapters, of the throughput with 16", "throughput", RESIDENT_64, MIXED, at_least=0.75),
    _ours("prefix cache, first token without over with", "ttft", replace(SYSTEM, prefix_cache=False), SYSTEM, at_least=4),
    _limit("1B shape, 16 adapters, of the limit", "throughput", LARGE, at_least=0.65),
)
