"""When the engine is idle, every block and every byte is back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manylora.engine.config import QUANTIZATIONS
from manylora.engine.residency import Freed
from manylora.errors import AdapterNotFound, AdapterUnavailable, Overloaded, RequestError
from tests.engine.harness import Engine, greedy, start

events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.integers(1, 200)),
        st.tuples(st.just("abort"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("load"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("retire"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
    ),
    max_size=60,
)


@pytest.fixture(scope="module", params=QUANTIZATIONS)
def engine(request: pytest.FixtureRequest, tiny: Path, images: Path) -> Engine:
    return start(tiny, images, memory_bytes=16 << 20, max_num_batched_tokens=32, quantization=request.param)


@settings(max_examples=60, deadline=None)
@given(script=events)
def test_random_lives_leave_nothing_behind(
    engine: Engine, tiny_adapters: dict[str, Path], script: list[tuple[str, int, int]]
) -> None:
    """Arrivals, aborts, loads and unloads in any order: after the last answer nothing is held, and every request had one end."""
    names = list(tiny_adapters)
    alive: list[str] = []
    ended: set[str] = set()
    serial = 0
    for verb, first, second in script:
        name = names[first % len(names)]
        if verb == "add":
            serial += 1
            adapter = None if first == 3 else name
            try:
                engine.add(greedy(f"c{serial}", list(range(second)), adapter, None if second % 3 == 0 else 20))
            except (AdapterNotFound, KeyError):
                continue
            alive.append(f"c{serial}")
        elif verb == "abort" and alive:
            id = alive.pop(first % len(alive))
            engine.core.abort(id)
            ended.add(id)
        elif verb == "load":
            try:
                engine.load(name, tiny_adapters[name])
            except AdapterUnavailable:
                engine.versions.pop(name, None)
        elif verb == "retire" and name in engine.versions:
            with suppress(AdapterNotFound):  # still on its way in, or gone already
                engine.core.retire(engine.versions[name])
        elif verb == "step":
            for _ in range(first):
                _step(engine, alive, ended)
    while engine.core.busy:
        _step(engine, alive, ended)
    engine.core.check()
    assert not alive
    stats = engine.core.stats()
    assert stats.kv_blocks_used == stats.running == stats.waiting == 0


def _step(engine: Engine, alive: list[str], ended: set[str]) -> None:
    for output in engine.step():
        assert output.id not in ended, "an output after the end"
        if output.finish_reason is not None:
            alive.remove(output.id)
            ended.add(output.id)


def test_unloading_gives_the_bytes_back_with_the_last_request(tiny: Path, tiny_adapters: dict[str, Path], images: Path) -> None:
    """Replays vllm#54839 (unload frees nothing): retiring closes the version at once, and its last request's end frees it."""
    engine = start(tiny, images)
    before = engine.core.stats().kv_blocks_total
    version = engine.load("all4", tiny_adapters["all4"])
    taken = engine.core.stats().adapter_bytes
    assert taken > 0
    engine.add(greedy("running", [1, 2, 3], "all4", 5))
    engine.step()
    engine.core.take_settled()
    engine.core.retire(version)
    assert engine.core.take_settled() == []
    with pytest.raises(AdapterNotFound, match="is not loaded"):
        engine.add(greedy("late", [1, 2, 3], "all4", 5))
    while engine.core.busy:
        engine.step()
    assert engine.core.take_settled() == [Freed(version, taken)]
    stats = engine.core.stats()
    assert (stats.adapter_bytes, stats.kv_blocks_total) == (0, before)
    engine.core.check()


def test_an_adapter_that_can_never_fit_is_refused_and_changes_nothing(
    tiny: Path, tiny_adapters: dict[str, Path], images: Path
) -> None:
    """KV keeps what one request of the greatest length needs; the refusal names both numbers."""
    engine = start(tiny, images, memory_bytes=2 << 20, max_model_len=256)
    engine.load("all4", tiny_adapters["all4"])
    with pytest.raises(AdapterUnavailable, match=r"needs .* MiB and .* MiB are left"):
        engine.load("qv8", tiny_adapters["qv8"])
    engine.core.check()


def test_what_can_never_run_is_refused_at_arrival(tiny: Path, images: Path) -> None:
    """An empty or over-long prompt and a full queue are errors at once, not failures half-way."""
    engine = start(tiny, images, max_waiting=1, max_model_len=64)
    with pytest.raises(RequestError, match="empty"):
        engine.add(greedy("empty", []))
    with pytest.raises(RequestError, match=r"64 tokens; .* within 64"):
        engine.add(greedy("long", [1] * 64))
    engine.add(greedy("first", [1]))
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        engine.add(greedy("second", [1]))


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 5e-324), ("top_p", 1.5), ("top_k", -1),
        ("top_k", 2**31), ("min_p", 1.1), ("presence_penalty", float("inf")), ("frequency_penalty", 1e9),
        ("repetition_penalty", 0.0), ("logprobs", 21), ("prompt_logprobs", -1),
        ("logit_bias", {320: 1.0}), ("logit_bias", {1: float("nan")}),
        ("stop_token_ids", (-1,)), ("max_tokens", 0),
    ],
)  # fmt: skip
def test_a_parameter_that_no_kernel_takes_is_the_callers_fault_alone(engine: Engine, param: str, value: object) -> None:
    """One bad request must never end the engine for everybody else: it is refused at arrival, by name."""
    with pytest.raises(RequestError) as caught:
        engine.add(greedy("bad", [1, 2], **{param: value}))
    assert caught.value.param == param
    with pytest.raises(RequestError, match="vocabulary"):
        engine.add(greedy("bad", [1, 320]))
    assert not engine.core.busy
