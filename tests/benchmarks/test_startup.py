"""The page about starts and memory."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.startup import LOAD, Startup, page

ABOUT: dict[str, str | int] = {"date": "today", "cpu": "a CPU", "cpus": 2, "isa": "amx", "commit": "abc"}


def test_the_page_judges_medians_and_what_is_beside_weights_and_budget() -> None:
    """One slow start breaks no bound; the larger model has none on its time; memory is bounded for all."""
    small = Startup(LOAD, peak=800_000_000, weights=300_000_000, budget=250_000_000, seconds=[2.0, 9.0, 2.5])
    large = replace(small, case=replace(LOAD, model="1b"), peak=851_000_000)
    text = page([small, large], ABOUT)
    assert "| smol, bf16 | 2.5 (2 to 9) | at most 3 | yes | 800 | 300 | 250 | 250 | at most 300 | yes |" in text
    assert "| 1b, bf16 | 2.5 (2 to 9) |  |  | 851 | 300 | 250 | 301 | at most 300 | **no** |" in text
    assert "| **no** | 800 |" in page([replace(small, seconds=[3.1])], ABOUT)
