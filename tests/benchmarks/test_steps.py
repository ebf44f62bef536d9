"""What is read off a step log."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.bench_steps import Breakdown, breakdowns, page, shares
from benchmarks.cases import CONTEXT_2048, MIXED, ONE_STREAM, Case
from benchmarks.loads import MeasurementFailed
from manylora.metrics.step_log import StepRecord

CASE = Case(adapters=0, concurrency=2)


def record(**values: int) -> StepRecord:
    """A step of two decodes after 1,000 and 2,000 known tokens: 8 ms in kernels of 10."""
    fields = dict.fromkeys(StepRecord.__struct_fields__, 0)
    fields |= {"rows": 2, "decodes": 2, "context_tokens": 3000, "wall_ns": 10_000_000}
    fields |= {"base_ns": 5_000_000, "attention_ns": 3_000_000, "scheduling_ns": 1_500_000, "sampling_ns": 500_000}
    return msgspec.convert(fields | values, StepRecord)


def test_steps_that_only_decode_are_told_apart() -> None:
    """Attention's bandwidth and a decode's cost are not blurred by prefill, nor by steps that were not full."""
    prefill = record(prefill_tokens=98, rows=100, base_ns=35_000_000)
    everything, decodes = breakdowns(
        CASE, [prefill, record(), record(), record(decodes=1, rows=1)], token_bytes=20, bandwidth=4e7
    )
    assert (everything.steps, everything.count, decodes.steps, decodes.count) == ("all", 4, "decode only", 2)
    assert decodes.wall == pytest.approx(10.0)
    assert decodes.around_kernels == pytest.approx(0.2)
    assert everything.milliseconds["base"] == pytest.approx((35 + 3 * 5) / 4)
    assert decodes.attention_bandwidth == pytest.approx(2 * 3000 * 20 / 6e-3)


def test_the_page_shows_parts_and_bandwidth() -> None:
    """Every part has its column, and attention stands beside what the memory gives."""
    found: list[Breakdown] = breakdowns(CASE, [record()], token_bytes=20, bandwidth=4e7)
    text = page(found, {"date": "today", "cpu": "a CPU", "cpus": 2, "isa": "amx", "commit": "abc"})
    assert f"| {CASE.name} | decode only | 2 | 10 | 0 | 1.5 | 5 | 0 | 3 | 0 | 0 | 0.5 | 0 | 20.0% | 0 |" in text
    assert f"| {CASE.name} | 0.02 | 0.04 | 50% |" in text


def test_a_log_without_the_measurement_is_no_measurement() -> None:
    """Nothing is divided by no steps: the load failed, and says so."""
    with pytest.raises(MeasurementFailed, match="no step"):
        breakdowns(CASE, [], token_bytes=20, bandwidth=4e7)


def test_shares_are_judged_where_they_are_bounded() -> None:
    """What is around the kernels at 32 in flight, in every kind of step; attention at a context of 2,048 alone."""
    full, tight = record(decodes=32), record(decodes=32, base_ns=6_600_000, scheduling_ns=300_000, sampling_ns=100_000)
    around = f"around kernels: {MIXED.name}"
    assert shares(breakdowns(MIXED, [full], token_bytes=20, bandwidth=4e7)) == [
        [f"{around}; all", "20.0%", "at most 5%", "**no**"], [f"{around}; decode only", "20.0%", "at most 5%", "**no**"],
    ]  # fmt: skip
    *_, attention = found = shares(breakdowns(CONTEXT_2048, [tight], token_bytes=20, bandwidth=4e7))
    assert [row[1:] for row in found[:2]] == [["4.0%", "at most 5%", "yes"]] * 2
    assert attention[1:] == ["50%", "at least 60%", "**no**"]
    assert shares(breakdowns(ONE_STREAM, [record(decodes=1)], token_bytes=20, bandwidth=4e7)) == []
