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


def test_each_adapter_answers_its_own_prompts_and_nobody_elses(smollm2: Path, tmp_path: Path) -> None:
    """On held-out prompts, greedy, all mixed in the same batches: exact match at least 90 % by a customer's own adapter (a house
    style: its form), at most 10 % by the base and by each of the others."""
    names = [*data.CUSTOMERS, *data.STYLES]
    cases = [(name, name, example) for name in names for example in data.held_out(name, OWN)]
    for name in data.CUSTOMERS:
        cases += [(model, name, example) for model in ("base", *names) if model != name for example in data.held_out(name, CROSS)]
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "manylora", "serve", str(smollm2), "--port", str(port), "--served-model-name", "base"]
    command += [part for name in names for part in ("--adapter", f"{name}={ADAPTERS / name}")]
    with serving(command, url, tmp_path / "log"):
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
    for name in names:
        own = right[name, name]
        assert sum(own) >= 0.9 * len(own), f"{name} answers {sum(own)} of {len(own)} of its own prompts"
    for (model, name), answers in right.items():
        if model != name:
            assert sum(answers) <= 0.1 * len(answers), f"{model} answers {sum(answers)} of {len(answers)} prompts of {name}"


@pytest.mark.parametrize("name", [*data.CUSTOMERS, *data.STYLES])
def test_the_adapter_is_within_its_size(name: str) -> None:
    """At most 5 MB each, so that a clone stays small."""
    assert sum(path.stat().st_size for path in (ADAPTERS / name).iterdir()) <= 5_000_000
