"""The matrix of loads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.bench_peers import requests_of
from benchmarks.cases import OWN, QUICK, SHARED, Case, unique
from benchmarks.peers.llama_cpp import SLOT_TOKENS
from benchmarks.peers.vllm import MAX_LENGTH, MAX_REQUESTS

REFERENCE = Case()


@pytest.mark.parametrize(
    "changes",
    [
        *({"adapters": count} for count in (0, 1, 4, 16, 64)),
        *({"ranks": ranks} for ranks in ((8,), (16,), (64,), (8, 16, 64))),
        *({"targets": targets} for targets in ("qv", "all")),
        *({"concurrency": count, "adapters": adapters} for count in (1, 8, 32, 64) for adapters in (0, 16)),
        *({"adapters": adapters, "concurrency": 1} for adapters in (0, 1)),
        *({"quantization": kind, "adapters": adapters} for kind in ("bf16", "int8") for adapters in (0, 16)),
        {"model": "1b"},
        {"model": "1b", "adapters": 0},
    ],
    ids=str,
)
def test_the_matrix_changes_one_thing_of_the_reference_load(changes: dict[str, object]) -> None:
    """Every load that was asked for is measured, on ours and on the peers."""
    wanted = replace(REFERENCE, **changes)
    assert wanted in SHARED
    assert wanted in OWN


def test_prompts_and_prefixes() -> None:
    """Prompts of 128, 512 and 2,048 tokens, a context of 2,048 at 32 in flight, and shared prompts with and without cache."""
    for adapters in (0, 16):
        assert {128, 512, 2048} <= {case.prompt for case in SHARED if case.adapters == adapters}
    assert any(case.prompt + case.output == 2048 and case.concurrency == 32 for case in SHARED)
    for cached in (True, False):
        assert any(case.system == 512 and case.adapters and case.prefix_cache is cached for case in SHARED)
    assert any(case.prompt == 512 and case.concurrency == 1 and case.is_first_token for case in SHARED)


def test_the_quick_selection_is_the_headlines() -> None:
    """Base and 16 adapters at 32 in flight, rank 8 on q and v, one stream with and without an adapter, and int8."""
    assert (
        Case(adapters=0), Case(), Case(ranks=(8,), targets="qv"), Case(adapters=0, concurrency=1),
        Case(adapters=1, concurrency=1), Case(quantization="int8"),
    ) == QUICK  # fmt: skip


def test_names_tell_cases_apart() -> None:
    """A row of a table is about one load."""
    cases = unique(OWN)
    assert len({case.name for case in cases}) == len(cases)


def test_adapters_go_round_the_ranks_and_are_shared_between_cases() -> None:
    """One adapter of a name serves every case that names it, so that 64 of them can be loaded once for all."""
    assert Case(adapters=4, ranks=(8, 16, 64)).adapter_names == ["r8-all-0", "r16-all-1", "r64-all-2", "r8-all-3"]
    assert set(Case(adapters=16).adapter_names) < set(Case(adapters=64).adapter_names)


def test_every_adapter_of_a_case_gets_a_request() -> None:
    """64 resident adapters are 64 used ones."""
    for case in SHARED:
        if case.concurrency > 1:
            assert requests_of(case) >= case.adapters


def test_peers_are_started_with_room_for_every_case() -> None:
    """No peer loses a load to a limit that we set."""
    for case in SHARED:
        assert case.system + case.prompt + case.output <= min(MAX_LENGTH, max(SLOT_TOKENS))
        assert case.concurrency <= MAX_REQUESTS
