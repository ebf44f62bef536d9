"""Requests of a case, and what is read off their answers."""

from __future__ import annotations

import pytest

from benchmarks.cases import SYSTEM, Case
from benchmarks.loads import Ask, MeasurementFailed, Sample, asks, sample_of
from manylora.loadgen.client import LoadRequest, LoadResult

ASK = Ask(None, [1, 2], 3)


def result(sent: float, arrivals: list[float], tokens: int = 3, error: str | None = None) -> LoadResult:
    """An answer as the client tells it."""
    ended = arrivals[-1] if arrivals else sent + 1.0
    return LoadResult(LoadRequest({}), sent, arrivals, output_tokens=tokens, ended=ended, error=error)


def test_a_sample_is_tokens_over_the_whole_time_and_medians_of_the_rest() -> None:
    """From the first request sent to the last answer ended; times over requests that had a text."""
    results = [result(10.0, [10.5, 11.0, 11.5]), result(10.0, [11.0, 12.0, 14.0]), result(10.0, [])]
    assert sample_of(results, [ASK] * 3) == Sample(9 / 4.0, 0.75, 1.0)


def test_another_length_than_asked_for_is_no_measurement() -> None:
    """An engine that stops early would look fast."""
    with pytest.raises(MeasurementFailed, match="asked for 3 tokens, got 2"):
        sample_of([result(0.0, [1.0], tokens=2)], [ASK])


def test_an_error_is_no_measurement() -> None:
    """An engine that refuses would look fastest of all."""
    with pytest.raises(MeasurementFailed, match="HTTP 503"):
        sample_of([result(0.0, [], error="HTTP 503")], [ASK])


def test_requests_are_the_same_for_every_engine_and_new_in_every_round() -> None:
    """The same seed gives the same load; another gives prompts that no prefix cache knows."""
    case = Case(adapters=2, prompt=16)
    assert asks(case, 1000, 1, 4) == asks(case, 1000, 1, 4)
    first, second = asks(case, 1000, 1, 4), asks(case, 1000, 2, 4)
    assert not {tuple(ask.prompt) for ask in first} & {tuple(ask.prompt) for ask in second}
    assert [ask.adapter for ask in first] == ["r16-all-0", "r16-all-1", "r16-all-0", "r16-all-1"]
    assert all(len(ask.prompt) == 16 and ask.output == 64 for ask in first)


def test_a_system_prompt_is_shared_within_its_adapter_only() -> None:
    """In every round, so that a warmed prefix cache knows it; other adapters have others."""
    first, second = asks(SYSTEM, 1000, 1, 17), asks(SYSTEM, 1000, 2, 17)
    beginning = [tuple(ask.prompt[:512]) for ask in first]
    assert beginning == [tuple(ask.prompt[:512]) for ask in second]
    assert beginning[0] == beginning[16]
    assert len(set(beginning)) == 16
    assert first[0].prompt[512:] != first[16].prompt[512:]
