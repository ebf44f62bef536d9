"""An answer is the same, bit for bit, alone and in any mix: tokens and log-probabilities, on every instruction set."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manylora.engine.config import QUANTIZATIONS
from manylora.types.request import Request
from tests.engine.harness import CAPABILITIES, Answer, Engine, greedy, play, start

ADAPTERS = [None, "all4", "qv8", "mlp3", "mixed"]
FAMILIES = [[(family * 37 + place * 11) % 320 for place in range(200)] for family in range(3)]
"""Prompts are cut from three texts, so that prefixes are often shared."""

SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 1.3, "top_p": 0.9, "seed": 8, "choice": 1},
    {"temperature": 1.0, "top_k": 5, "min_p": 0.02, "seed": 9},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3, "logit_bias": {5: 2.0}},
    {"prompt_logprobs": 2},
]

requests = st.builds(
    lambda family, length, adapter, tokens, sampling: (family, length, adapter, tokens, sampling),
    st.integers(0, len(FAMILIES) - 1),
    st.integers(1, 120),
    st.sampled_from(ADAPTERS),
    st.one_of(st.integers(1, 24)),
    st.integers(0, len(SAMPLING) - 1),
)
mixes = st.lists(st.tuples(requests, st.integers(0, 12)), min_size=2, max_size=9)


class Alone:
    """Each distinct request answered by itself once: one thread, a fresh cache, the whole prompt in one chunk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[Any, ...], Answer] = {}

    def answer(self, drawn: tuple[Any, ...]) -> Answer:
        """What the request gets alone."""
        if drawn not in self._known:
            self._known[drawn] = play(self._engine, [(0, make("alone", drawn))])["alone"]
        return self._known[drawn]


def make(id: str, drawn: tuple[Any, ...]) -> Request:
    family, length, adapter, tokens, sampling = drawn
    return greedy(id, FAMILIES[family][:length], adapter, tokens, **SAMPLING[sampling])


def load_all(engine: Engine, adapters: dict[str, Path]) -> Engine:
    for name, folder in adapters.items():
        engine.load(name, folder)
    return engine


@pytest.fixture(scope="module", params=product(CAPABILITIES, QUANTIZATIONS), ids="-".join)
def engines(
    request: pytest.FixtureRequest, tiny: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Alone, list[Engine]]:
    """One engine for lone answers, and several of different thread counts, chunk sizes and memory for the mixes."""
    capability, quantization = request.param
    core = partial(start, tiny, tmp_path_factory.mktemp("images"), capability=capability, quantization=quantization)
    alone = core(threads=1, max_num_batched_tokens=256, prefix_cache=False)
    mixed = [
        core(threads=2, max_num_batched_tokens=64),
        core(threads=1, max_num_batched_tokens=17),
        core(threads=2, max_num_batched_tokens=9, memory_bytes=12 << 20, max_num_seqs=3),
    ]
    return Alone(load_all(alone, tiny_adapters)), [load_all(engine, tiny_adapters) for engine in mixed]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mix=mixes, which=st.integers(0, 2))
def test_any_mix_gives_the_bits_of_each_request_alone(
    engines: tuple[Alone, list[Engine]], mix: list[tuple[tuple[Any, ...], int]], which: int
) -> None:
    """Lengths, adapters, base rows, chunk sizes, prefix hits, thread counts, arrival orders: none of them changes a bit."""
    alone, mixed = engines
    arrivals = [(step, make(f"r{number}", drawn)) for number, (drawn, step) in enumerate(mix)]
    answers = play(mixed[which], arrivals)
    for number, (drawn, _) in enumerate(mix):
        expected = alone.answer(drawn)
        got = answers[f"r{number}"]
        assert got.tokens == expected.tokens
        assert got.logprobs == expected.logprobs
        assert got.prompt_logprobs == expected.prompt_logprobs


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_preempted_request_continues_with_the_same_bits(
    tiny: Path, tiny_adapters: dict[str, Path], images: Path, quantization: str
) -> None:
    """Recomputing after a preemption gives the keys and values, and so the answer, of an undisturbed run."""
    qv8 = {"qv8": tiny_adapters["qv8"]}
    core = partial(start, tiny, images, max_model_len=1000, quantization=quantization)
    small = load_all(core(memory_bytes=2 << 20), qv8)  # 256 blocks of KV
    requests = [greedy(f"r{number}", FAMILIES[number % 3][number : number + 100], "qv8", None) for number in range(6)]
    crowded = play(small, [(0, request) for request in requests])
    assert small.core.stats().preemptions > 0
    roomy = load_all(core(), qv8)
    for request in requests[-3:]:
        assert crowded[request.id] == play(roomy, [(0, request)])[request.id]


def test_prompt_scores_do_not_depend_on_chunks(tiny: Path, images: Path) -> None:
    """Scores of a long prompt whose prefill is spread over steps are complete, in order and the same bits after any chunking."""
    prompt = [(place * 31 + 7) % 320 for place in range(300)]
    request = greedy("p", prompt, None, 2, prompt_logprobs=1)
    answers = [
        play(start(tiny, images, max_model_len=512, max_num_batched_tokens=chunk), [(0, request)])["p"] for chunk in (300, 37, 8)
    ]
    scores = answers[0].prompt_logprobs
    assert scores is not None
    assert [None if score is None else score.token for score in scores] == [None, *prompt[1:]]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("capability", CAPABILITIES[1:])
def test_long_contexts_cross_partitions_with_the_same_bits(
    tiny: Path, tiny_adapters: dict[str, Path], images: Path, capability: str
) -> None:
    """Contexts past 512 tokens are attended in partitions, split over threads when few rows run: whole, chunked, shared with
    neighbours, from the prefix cache, on one thread or two."""
    text = [(place * 13 + place // 7) % 320 for place in range(1100)]
    lengths = ((505, "all4"), (700, None), (1030, "mixed"))
    requests = [greedy(f"l{length}", text[:length], adapter, 12) for length, adapter in lengths]
    alone = start(
        tiny, images, capability=capability, threads=1, max_model_len=1200, max_num_batched_tokens=1200, prefix_cache=False
    )
    mixed = start(tiny, images, capability=capability, threads=2, max_model_len=1200, max_num_batched_tokens=100)
    for engine in (alone, mixed):
        load_all(engine, tiny_adapters)
    expected = {request.id: play(alone, [(0, request)])[request.id] for request in requests}
    for turn in range(2):
        assert play(mixed, [(turn * number * 3, request) for number, request in enumerate(requests)]) == expected
    assert mixed.core.stats().cached_prompt_tokens > 1000


def test_the_prefix_cache_is_salted_by_adapter_version(engines: tuple[Alone, list[Engine]]) -> None:
    """The same prompt under another adapter never reuses keys and values; under the same version it does."""
    engine = engines[1][0]
    prompt = [(place * 7 + 3) % 320 for place in range(64)]
    cached = []
    for number, adapter in enumerate(["all4", "qv8", None, "all4", None]):
        before = engine.core.stats().cached_prompt_tokens
        play(engine, [(0, greedy(f"s{number}", prompt, adapter))])
        cached.append(engine.core.stats().cached_prompt_tokens - before)
    assert cached == [0, 0, 0, 48, 48]
