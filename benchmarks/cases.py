"""The loads, as data.

A case changes one thing of the reference load: 16 adapters of rank 16 on all seven projections, 32 requests in flight,
128 random tokens in, 64 out, in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.random_adapters import PROJECTIONS

TARGETS = {"all": list(PROJECTIONS), "qv": ["q_proj", "v_proj"]}


@dataclass(frozen=True, slots=True)
class Case:
    """One load. `prompt`, `output` and `system` are tokens; prompts are `system` shared ones and `prompt` of their own."""

    model: Literal["smol", "1b"] = "smol"
    adapters: int = 16
    """Requests go round them; 0 is the base model."""
    ranks: tuple[int, ...] = (16,)
    """Adapters go round these too."""
    targets: Literal["all", "qv"] = "all"
    concurrency: int = 32
    prompt: int = 128
    output: int = 64
    system: int = 0
    """Tokens that all prompts of an adapter begin with."""
    prefix_cache: bool = True
    quantization: Literal["bf16", "int8"] = "bf16"
    isa: str = ""
    """Ours only: the instruction set of the kernels; the best of this machine if empty."""

    @property
    def name(self) -> str:
        """What is loaded, in words; different for different cases."""
        ranks = "/".join(map(str, self.ranks))
        loaded = "base" if not self.adapters else f"{self.adapters} adapter{'s'[: self.adapters > 1]} r{ranks} {self.targets}"
        tokens = f"{f'{self.system}+' if self.system else ''}{self.prompt} in, {self.output} out"
        rest = [self.model] * (self.model != "smol") + [self.quantization] * (self.quantization != "bf16")
        rest += ["no prefix cache"] * (not self.prefix_cache) + [self.isa] * bool(self.isa)
        return ", ".join([loaded, f"{self.concurrency} in flight", tokens, *rest])

    @property
    def adapter_names(self) -> list[str]:
        """One for each adapter: rank, targets and number say all that makes it."""
        return [f"r{self.ranks[number % len(self.ranks)]}-{self.targets}-{number}" for number in range(self.adapters)]

    @property
    def is_first_token(self) -> bool:
        """Whether the time to the first token is what is asked."""
        return self.output <= FIRST_TOKEN


FIRST_TOKEN = 4
"""Output of the cases about the time to the first token: few, but enough that one of them has a text."""

MIXED = Case()
BASE = Case(adapters=0)
ONE_ADAPTER = Case(adapters=1)
ONE_STREAM = replace(BASE, concurrency=1)
ONE_STREAM_ADAPTER = replace(ONE_ADAPTER, concurrency=1)
LONE_PROMPT = replace(ONE_STREAM, prompt=512, output=FIRST_TOKEN)
LONE_PROMPT_ADAPTER = replace(LONE_PROMPT, adapters=1)
RESIDENT_64 = Case(adapters=64)
RANK_8_QV = Case(ranks=(8,), targets="qv")
CONTEXT_2048 = replace(BASE, prompt=1920, output=128)
SYSTEM = Case(concurrency=1, system=512, prompt=64, output=FIRST_TOKEN)
SYSTEM_32 = Case(system=512, prompt=64, output=16)

ADAPTERS = (BASE, ONE_ADAPTER, Case(adapters=4), MIXED, RESIDENT_64)
RANKS = (Case(ranks=(8,)), MIXED, Case(ranks=(64,)), Case(ranks=(8, 16, 64)))
PROJECTION_SETS = (RANK_8_QV, Case(targets="qv"))
CONCURRENCY = tuple(replace(case, concurrency=count) for count in (1, 8, 32, 64) for case in (BASE, MIXED))
PROMPTS = tuple(replace(case, concurrency=8, prompt=tokens) for tokens in (128, 512, 2048) for case in (BASE, MIXED))
"""Eight in flight: with 32, the slowest engine would prefill long prompts for ten minutes."""
PREFIX = tuple(replace(case, prefix_cache=cached) for cached in (True, False) for case in (SYSTEM, SYSTEM_32))
STREAMS = (ONE_STREAM, ONE_STREAM_ADAPTER, LONE_PROMPT, LONE_PROMPT_ADAPTER)
HEADLINES = (BASE, ONE_ADAPTER, MIXED, *STREAMS)


def changed(cases: Sequence[Case], **values: str) -> tuple[Case, ...]:
    """The same cases with another model, quantisation or instruction set."""
    return tuple(replace(case, **values) for case in cases)  # type: ignore[arg-type]


LARGER = changed(HEADLINES, model="1b")
SHARED = (
    *ADAPTERS, *RANKS, *PROJECTION_SETS, *CONCURRENCY, *PROMPTS, CONTEXT_2048, *PREFIX, *STREAMS, *LARGER,
    *changed(HEADLINES, quantization="int8"),
)  # fmt: skip
"""What every engine is asked for: `make bench-peers`."""
OWN = (
    *SHARED,
    *changed((RESIDENT_64, CONTEXT_2048), quantization="int8"),
    *changed(LARGER, quantization="int8"),
    *changed(HEADLINES, isa="avx512bf16"),
)
"""What our own server is asked for: `make bench-speed`."""
QUICK = (BASE, MIXED, RANK_8_QV, ONE_STREAM, ONE_STREAM_ADAPTER, replace(MIXED, quantization="int8"))
"""The headline loads."""


def unique(cases: Sequence[Case]) -> list[Case]:
    """Without repetitions, in the order of the first."""
    return list(dict.fromkeys(cases))
