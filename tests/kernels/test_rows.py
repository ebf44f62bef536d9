"""Norm, activation and lookup of rows, on every instruction set of the machine."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manylora.kernels import Batch, Matrix, capabilities, embed, gather, oracle_rows, rms_norm, silu_multiply

from .attention_cases import as_floats, float32, runtime

CAPABILITIES = capabilities()
FLOAT32_ROUNDOFF, BFLOAT16_ROUNDOFF = 2.0**-24, 2.0**-8
quick = settings(max_examples=60, deadline=None)
widths = st.one_of(st.integers(1, 140), st.sampled_from([576, 1536, 2047]))


def poisoned(rows: int, columns: int, dtype: str) -> Matrix:
    """An output full of NaN: whatever is not written shows."""
    matrix = Matrix(rows, columns, dtype)
    matrix.array[:] = 0xFFFF if dtype == "bfloat16" else np.nan
    return matrix


def step(token_ids: NDArray[np.integer], max_rows: int) -> Batch:
    """A step of one sequence with these tokens."""
    batch = Batch(max_rows, 1, 1, -(-max_rows // 16))
    batch.token_ids[: len(token_ids)] = token_ids
    batch.positions[:] = np.arange(max_rows)
    batch.block_tables[:] = 0
    batch.sequence_starts[1] = len(token_ids)
    batch.begin(len(token_ids), 1)
    return batch


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(rows=st.integers(1, 40), columns=widths, seed=st.integers(0, 99), threads=st.sampled_from([1, 2]))
def test_rms_norm(capability: str, rows: int, columns: int, seed: int, threads: int) -> None:
    """One fp32 sum of squares, one bfloat16 rounding; rows have the bits they have alone, and rows beyond stay untouched."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-3, 4, size=(rows, 1))
    matrix, weight = float32(x), float32(rng.uniform(-2, 2, size=(1, columns)))
    y = poisoned(rows + 1, columns, "bfloat16")
    rms_norm(runtime(capability, threads), rows, matrix, weight, 1e-5, y)
    exact = oracle_rows.rms_norm(matrix.array, weight.array, 1e-5)
    relative = BFLOAT16_ROUNDOFF + (columns + 6) * FLOAT32_ROUNDOFF
    assert (np.abs(as_floats(y.array[:rows]) - exact) <= np.abs(exact) * relative).all()
    assert (y.array[rows] == 0xFFFF).all()
    alone = poisoned(1, columns, "bfloat16")
    rms_norm(runtime(capability, 1), 1, float32(x[-1:]), weight, 1e-5, alone)
    np.testing.assert_array_equal(alone.array[0], y.array[rows - 1])


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(rows=st.integers(1, 40), columns=widths, seed=st.integers(0, 99), threads=st.sampled_from([1, 2]))
def test_silu_multiply(capability: str, rows: int, columns: int, seed: int, threads: int) -> None:
    """Our e^x is good to 2e-7 (to nothing below e^-88) and the product rounds once; rows have the bits they have alone."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2 * columns)) * rng.choice([0.1, 3, 30], size=(rows, 1))
    gate_up, y = float32(x), poisoned(rows + 1, columns, "bfloat16")
    silu_multiply(runtime(capability, threads), rows, gate_up, y)
    exact = oracle_rows.silu_multiply(gate_up.array)
    assert (np.abs(as_floats(y.array[:rows]) - exact) <= np.abs(exact) * (BFLOAT16_ROUNDOFF + 1e-6) + 1e-34).all()
    assert (y.array[rows] == 0xFFFF).all()
    alone = poisoned(1, columns, "bfloat16")
    silu_multiply(runtime(capability, 1), 1, float32(x[-1:]), alone)
    np.testing.assert_array_equal(alone.array[0], y.array[rows - 1])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_silu_at_the_ends_of_the_range(capability: str) -> None:
    """A gate far below zero closes, far above it passes, and NaN stays NaN."""
    gates = np.array([-3e38, -1000, -88.5, -87, 0, 87, 88.5, 3e38, np.nan], np.float32)
    gate_up, y = float32(np.concatenate([gates, np.ones_like(gates)])[None]), poisoned(1, len(gates), "bfloat16")
    silu_multiply(runtime(capability, 1), 1, gate_up, y)
    got = as_floats(y.array[0])
    assert (np.abs(got[:4]) < 1e-35).all()
    assert got[4] == 0
    np.testing.assert_allclose(got[5:8], gates[5:8], rtol=BFLOAT16_ROUNDOFF)
    assert np.isnan(got[8])


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(rows=st.integers(1, 40), columns=st.integers(1, 140), vocabulary=st.integers(1, 50), seed=st.integers(0, 99))
def test_embedding_and_gather_copy_exactly(capability: str, rows: int, columns: int, vocabulary: int, seed: int) -> None:
    """Lookups move bits: bfloat16 widens exactly, in any order and repetition, and rows beyond stay untouched."""
    rng = np.random.default_rng(seed)
    table = Matrix(vocabulary, columns, "bfloat16")
    table.array[:] = rng.normal(size=(vocabulary, columns)).astype(ml_dtypes.bfloat16).view(np.uint16)
    ids = rng.integers(vocabulary, size=rows)
    batch, pool = step(ids, rows + 2), runtime(capability, 2)
    x = poisoned(rows + 1, columns, "float32")
    embed(pool, batch, table, x)
    np.testing.assert_array_equal(x.array[:rows], as_floats(np.ascontiguousarray(table.array[ids])))
    assert np.isnan(x.array[rows]).all()
    chosen = rng.integers(rows, size=int(rng.integers(0, rows + 1)))
    batch.gather_rows[: len(chosen)] = chosen
    y = poisoned(rows + 1, columns, "float32")
    gather(pool, batch, len(chosen), x, y)
    np.testing.assert_array_equal(y.array[: len(chosen)], x.array[chosen])
    assert np.isnan(y.array[len(chosen) :]).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_rounding_to_bfloat16_is_to_nearest_even(capability: str) -> None:
    """Ties go to the even neighbour, and a NaN does not become a number."""
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 3.39e38, np.nan], np.float32)
    gate_up = float32(np.concatenate([np.full_like(x, 1e6), x / np.float32(1e6)])[None])
    gate_up.array[0, : len(x)], gate_up.array[0, len(x) :] = 128, x / 128  # silu(128) is 128: a power of two scales exactly
    y = poisoned(1, len(x), "bfloat16")
    silu_multiply(runtime(capability, 1), 1, gate_up, y)
    np.testing.assert_array_equal(y.array[0].view(ml_dtypes.bfloat16)[:5], x.astype(ml_dtypes.bfloat16)[:5])
    assert np.isnan(as_floats(y.array[0])[5])


def test_shapes_and_indices_are_checked() -> None:
    """What does not fit raises ValueError that names it; nothing is read or written outside a matrix."""
    pool, batch = runtime("scalar", 1), step(np.array([3, 4]), 4)
    x, y = Matrix(4, 10, "float32"), Matrix(4, 10, "bfloat16")
    with pytest.raises(ValueError, match="token 4 is not in a table of 4"):
        embed(pool, batch, Matrix(4, 10, "bfloat16"), x)
    with pytest.raises(ValueError, match="table must be bfloat16"):
        embed(pool, batch, Matrix(9, 11, "bfloat16"), x)
    with pytest.raises(ValueError, match="x must be float32"):
        embed(pool, batch, Matrix(9, 10, "bfloat16"), Matrix(1, 10, "float32"))
    with pytest.raises(ValueError, match="x must be"):
        rms_norm(pool, 5, x, Matrix(1, 10, "float32"), 1e-5, y)
    with pytest.raises(ValueError, match="weight must be"):
        rms_norm(pool, 4, x, Matrix(1, 9, "float32"), 1e-5, y)
    with pytest.raises(ValueError, match="rows must not be negative"):
        rms_norm(pool, -1, x, Matrix(1, 10, "float32"), 1e-5, y)
    with pytest.raises(ValueError, match="gate_up must be"):
        silu_multiply(pool, 4, x, y)
    for row in (-1, 2):
        batch.gather_rows[0] = row
        with pytest.raises(ValueError, match="gather_rows"):
            gather(pool, batch, 1, x, Matrix(4, 10, "float32"))
    with pytest.raises(ValueError, match="count"):
        gather(pool, batch, 5, x, x)
