"""Ratios and pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import BASE, MIXED, ONE_STREAM, Case
from benchmarks.loads import Sample, middle
from benchmarks.results import Memory, Probes, Results, continued, read_results
from benchmarks.tables import advantage, number, peers_page, speed_page, table
from benchmarks.targets import AGAINST_OURSELVES, AGAINST_PEERS, BEST_PEER, LIMIT, OURS, Target
from manylora.errors import ConfigError

MACHINE = {"date": "today", "cpu": "a CPU", "cpus": 2, "isa": "amx", "commit": "abc"}


@pytest.fixture
def results() -> Results:
    """Three rounds of ours and two peers; one peer cannot do one load."""
    results = Results(MACHINE, {"manylora": "1", "vLLM": "2", "PEFT": "3"}, 3, {"PEFT": "static batches"})
    for case, ours, vllm in ((MIXED, 500.0, 40.0), (BASE, 600.0, 300.0)):
        results.row(case, "manylora").samples = [Sample(ours + change, 0.4, 0.04) for change in (-50.0, 0.0, 200.0)]
        results.row(case, "manylora").limits = [Sample(ours * 1.25, None, 0.02)]
        results.row(case, "manylora").probes = [Probes(20e9, 400e9, 800e9)]
        results.row(case, "vLLM").samples = [Sample(vllm, 4.0, 0.5)]
    results.row(MIXED, "PEFT").samples = [Sample(50.0, 8.0, 0.8)]
    results.row(BASE, "PEFT").reason = "it broke"
    results.memory["smol, bf16"] = Memory("smol, bf16", 500 << 20, 100 << 20, 300 << 20)
    return results


def ratio(results: Results, target: Target) -> float:
    """The target's ratio, which must be known."""
    found = target.ratio(results)
    assert found is not None
    return found


def test_a_median_is_of_each_figure_and_of_known_ones() -> None:
    """A measurement whose first token had no text does not pull the time of the others."""
    assert middle([Sample(1, 0.1, None), Sample(3, None, None), Sample(2, 0.3, None)]) == Sample(2, 0.2, None)


def test_ratios_are_of_medians(results: Results) -> None:
    """One lucky round changes no ratio; the best peer is the fastest of those that were measured."""
    named = {target.name: target for target in AGAINST_PEERS}
    assert ratio(results, named["16 adapters, against vLLM"]) == 12.5
    assert ratio(results, named["16 adapters, against the best peer"]) == 10.0
    assert ratio(results, named["base, against vLLM with LoRA off"]) == 2.0
    assert named["16 adapters in int8, against llama.cpp in q8_0"].ratio(results) is None


def test_ratios_to_the_limit(results: Results) -> None:
    """Achieved over possible, for throughput and for times."""
    (share,) = [target for target in AGAINST_OURSELVES if target.name == "16 adapters, of the limit"]
    assert ratio(results, share) == 0.8
    assert share.holds(0.8)
    assert not share.holds(0.69)
    step = Target("", "tpot", (OURS, MIXED), (LIMIT, MIXED), at_most=1.15)
    assert ratio(results, step) == 2.0
    assert not step.holds(2.0)


def test_the_best_peer_in_time_is_the_shortest(results: Results) -> None:
    """Best means more tokens a second, or less time."""
    assert ratio(results, Target("", "ttft", (OURS, MIXED), (BEST_PEER, MIXED))) == pytest.approx(0.1)
    assert advantage(0.4, 4.0, "ttft") == 10.0
    assert advantage(500, 40, "throughput") == 12.5
    assert advantage(None, 40, "throughput") is None


def test_a_table_is_markdown() -> None:
    """Names to the left, numbers to the right, three digits that count."""
    text = table(["load", "speed"], [["base", number(1234.5)], ["mixed", number(0.12345)], ["none", number(None)]])
    assert text == "| load | speed |\n| --- | ---: |\n| base | 1234 |\n| mixed | 0.123 |\n| none | — |\n"


def test_the_page_of_peers_says_why_a_figure_is_missing(results: Results) -> None:
    """A load that an engine cannot do is a dash with a note, never a silent gap."""
    page = peers_page(results)
    assert f"| {MIXED.name} | 500 | 40 (12.5x) | 50 (10x) |" in page
    assert f"| {BASE.name} | 600 | 300 (2x) | — (1) |" in page
    assert "1. PEFT: it broke\n" in page
    assert "a CPU, 2 CPUs, amx" in page
    assert "vLLM 2" in page
    assert "* PEFT: static batches\n" in page


def test_the_page_of_our_speed_has_the_limit_beside_each_figure(results: Results) -> None:
    """Figures, floors, what share is reached, what was skipped, and memory."""
    results.row(ONE_STREAM, "manylora").reason = "the server ended"
    page = speed_page(results)
    assert f"| {MIXED.name} | 500 | 625 | 80% | 400 | — | 40 | 20 |" in page
    assert f"* {ONE_STREAM.name}: the server ended\n" in page
    assert "| 16 adapters, of the limit | 0.8 | at least 0.7 | yes |" in page
    assert "| smol, bf16 | 500 | 300 | 100 | 100 |" in page


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    """Plots and tables can be made again from what was committed."""
    results.row(Case(ranks=(8, 16, 64), isa="avx2"), "manylora").reason = "why not"
    results.save(tmp_path / "speed.json")
    assert read_results(tmp_path / "speed.json") == results


def test_a_partial_run_renews_its_rows_alone(results: Results, tmp_path: Path) -> None:
    """Rows that took hours stay, in their place, while one load or one engine is measured again at the same commit."""
    results.save(tmp_path / "peers.json")
    again = continued(Results(MACHINE, {"manylora": "1", "llama.cpp": "4"}, 1), tmp_path / "peers.json")
    again.renew(MIXED, "manylora")
    assert list(again.engines) == ["manylora", "vLLM", "PEFT", "llama.cpp"]
    assert again.cases() == [MIXED, BASE]
    assert again.row(MIXED, "manylora").samples == []
    assert again.row(BASE, "manylora") == results.row(BASE, "manylora")
    assert again.row(MIXED, "vLLM") == results.row(MIXED, "vLLM")


@pytest.mark.parametrize(("then", "now"), [("abc", "abd"), ("abc+", "abc+"), ("", "")])
def test_a_partial_run_mixes_no_builds(results: Results, tmp_path: Path, then: str, now: str) -> None:
    """Rows of one table are compared: those of another commit, or of files that no commit has, are not added to."""
    results.machine = MACHINE | {"commit": then}
    results.save(tmp_path / "peers.json")
    fresh = Results(MACHINE | {"commit": now}, {}, 1)
    with pytest.raises(ConfigError, match="--out"):
        continued(fresh, tmp_path / "peers.json")
    assert continued(fresh, tmp_path / "none.json") is fresh
