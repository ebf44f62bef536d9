"""The probes of the machine, on every instruction set."""

from __future__ import annotations

import pytest

from manylora.kernels import Arena, Runtime, capabilities, probe_bf16_products, probe_int8_products, probe_read

CLOCK = 6e9
READ_PER_CYCLE = 2 * 64
PRODUCTS_PER_CYCLE = {"scalar": (32, 32), "avx2": (32, 64), "avx512bf16": (128, 256), "amx": (2048, 4096)}
"""Operations in bf16 and in int8 of the widest cores there are, or up to twice that."""


@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("threads", [1, 2])
def test_probes_give_rates_of_this_world(capability: str, threads: int) -> None:
    """A probe whose work the compiler leaves out would claim a machine that does not exist."""
    runtime, arena = Runtime(threads, capability), Arena(16 << 20)
    arena.array[:] = 1
    cycles = threads * CLOCK
    assert 1e7 < probe_read(runtime, arena) < cycles * READ_PER_CYCLE
    for probe, operations in zip((probe_bf16_products, probe_int8_products), PRODUCTS_PER_CYCLE[capability], strict=True):
        assert 1e7 < probe(runtime) < cycles * operations


def test_a_small_arena_is_read_too() -> None:
    """Less than a task of the read is no division by zero and no read beyond the end."""
    assert probe_read(Runtime(2, capabilities()[-1]), Arena(513)) > 0
