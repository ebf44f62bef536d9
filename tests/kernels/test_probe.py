"""The probes of the machine, on every instruction set."""

from __future__ import annotations

import pytest

from manylora.kernels import Arena, Runtime, capabilities, probe_bf16_products, probe_int8_products, probe_read


@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("threads", [1, 2])
def test_probes_give_rates_of_this_world(capability: str, threads: int) -> None:
    """A probe whose work the compiler leaves out would claim a machine that does not exist."""
    runtime, arena = Runtime(threads, capability), Arena(16 << 20)
    arena.array[:] = 1
    assert 1e7 < probe_read(runtime, arena) < 1e13
    for probe in (probe_bf16_products, probe_int8_products):
        assert 1e7 < probe(runtime) < 1e14 * threads


def test_a_small_arena_is_read_too() -> None:
    """Less than a task of the read is no division by zero and no read beyond the end."""
    assert probe_read(Runtime(2, capabilities()[-1]), Arena(513)) > 0
