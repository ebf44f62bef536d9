"""The demo's adapters, served by the real server, are as good as promised."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from demo import data
from manylora.loadgen.client import LoadRequest
from manylora.loadgen.closed_loop import run_closed_loop
from manylora.loadgen.server_process import free_port, serving

ADAPTERS = Path(__file__).resolve().parents[2] / "demo" / "adapters"
OWN, CROSS = 30, 6
NAMES = [*data.CUSTOMERS, *data.STYLES]
Case = tuple[str, str, data.Example]  # the model asked, whose prompt it is, and the prompt


def answers(smollm2: Path, log: Path, cases: list[Case], *options: str) -> dict[tuple[str, str], list[bool]]:
    """Whether each case's greedy answer is right, by (model asked, whose prompt), all asked of one server, 32 at a time."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "manylora", "serve", str(smollm2), "--port", str(port), "--served-model-name", "base"]
    command += [part for name in NAMES for part in ("--adapter", f"{name}={ADAPTERS / name}")]
    with serving([*command, *options], url, log):
        requests = [
            LoadRequest(
                {"model": model, "messages": example.messages, "max_tokens": 96, "temperature": 0}, "/v1/chat/completions"
            )
            for model, _, example in cases
        ]
        results = asyncio.run(run_closed_loop(url, requests, 32))
    assert not [result.error for result in results if result.error]
    right: dict[tuple[str, str], list[bool]] = {}
    for (model, name, example), result in zip(cases, results, strict=True):
        right.setdefault((model, name), []).append(data.correct(name, result.text, example))
    return right


def test_each_adapter_answers_its_own_prompts_and_nobody_elses(smollm2: Path, tmp_path: Path) -> None:
    """On held-out prompts, greedy, all mixed in the same batches: exact match at least 90 % by a customer's own adapter (a house
    style: its form), at most 10 % by the base and by each of the others."""
    cases = [(name, name, example) for name in NAMES for example in data.held_out(name, OWN)]
    for name in data.CUSTOMERS:
        cases += [(model, name, example) for model in ("base", *NAMES) if model != name for example in data.held_out(name, CROSS)]
    right = answers(smollm2, tmp_path / "log", cases)
    for name in NAMES:
        own = right[name, name]
        assert sum(own) >= 0.9 * len(own), f"{name} answers {sum(own)} of {len(own)} of its own prompts"
    for (model, name), others in right.items():
        if model != name:
            assert sum(others) <= 0.1 * len(others), f"{model} answers {sum(others)} of {len(others)} prompts of {name}"


def own_prompts(count: int) -> list[Case]:
    return [(name, name, example) for name in data.CUSTOMERS for example in data.held_out(name, count)]


def test_int8_weights_answer_the_customers_prompts(smollm2: Path, tmp_path: Path) -> None:
    """On int8 weights every customer's adapter still makes the exact call for at least 90 % of its held-out prompts."""
    for (name, _), own in answers(smollm2, tmp_path / "log", own_prompts(20), "--quantization", "int8").items():
        assert sum(own) >= 0.9 * len(own), f"{name} answers {sum(own)} of {len(own)} of its own prompts"


@pytest.mark.slow
def test_int8_weights_cost_at_most_a_point_of_exact_matches(smollm2: Path, tmp_path: Path) -> None:
    """Over all customers and 200 held-out prompts of each, exact calls on int8 weights are at most one point rarer."""
    share = []
    for quantization in ("none", "int8"):
        right = answers(smollm2, tmp_path / quantization, own_prompts(200), "--quantization", quantization)
        counts = {name: f"{sum(own)} of {len(own)}" for (name, _), own in right.items()}
        print(f"{quantization}: {counts}")
        share.append(sum(map(sum, right.values())) / sum(map(len, right.values())))
    print(f"exact calls: bfloat16 {share[0]:.1%}, int8 {share[1]:.1%}")
    assert share[1] >= share[0] - 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_adapter_is_within_its_size(name: str) -> None:
    """At most 5 MB each, so that a clone stays small."""
    assert sum(path.stat().st_size for path in (ADAPTERS / name).iterdir()) <= 5_000_000
