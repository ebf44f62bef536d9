"""Linear layers with int8 weights, on every instruction set of the machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manylora.kernels import Linear, capabilities, oracle_int8

from .linear_cases import Case, Kernel, Shape, bits, draw_case, runtime, shapes

CAPABILITIES = capabilities()
each_capability = pytest.mark.parametrize("capability", CAPABILITIES)


def plain(depth: int, columns: int, rows: int, seed: int = 0) -> Case:
    """A bare product of normal numbers, a few of whose depths are outliers, as in the activations of language models."""
    case = draw_case(Shape(depth, (columns,), (), rows, (), False, False, False, seed), integers=False)
    case.x[:, :: max(1, depth // 3)] *= 64
    return case


def exact(case: Case) -> NDArray[np.float32]:
    """The bits of a case without adapters."""
    parts = [oracle_int8.product(case.x, weight) for weight in case.weights]
    shifted = [part if bias is None else part + bias for part, bias in zip(parts, case.biases, strict=True)]
    return np.concatenate(shifted, axis=1) + case.y if case.shape.accumulate else np.concatenate(shifted, axis=1)


@each_capability
@settings(max_examples=100, deadline=None)
@given(shape=shapes(), threads=st.sampled_from([1, 2]))
def test_a_product_has_the_bits_of_the_definition(capability: str, threads: int, shape: Shape) -> None:
    """Rotation, rounding, integer sums and the two scales are defined to the bit: every instruction set computes the same."""
    case = draw_case(replace(shape, spans=()), integers=False)
    np.testing.assert_array_equal(Kernel(case, capability, threads, "int8").run(), exact(case))


@each_capability
@pytest.mark.parametrize(
    ("depth", "columns", "rows"), [(7, 40, 5), (100, 48, 33), (579, 96, 32), (1536, 128, 17), (8192, 64, 40)]
)
def test_odd_and_long_depths_have_the_bits_of_the_definition(capability: str, depth: int, columns: int, rows: int) -> None:
    """Depths that end inside a rotated block, and rows of x a page long, are as exact as the rest."""
    case = plain(depth, columns, rows)
    np.testing.assert_array_equal(Kernel(case, capability, 2, "int8").run(), exact(case))


@each_capability
@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_error_is_that_of_rounding_and_adapters_stay_bfloat16(capability: str, shape: Shape) -> None:
    """The base product errs by at most half a step in every rotated element of either side; the low-rank terms by no more than
    with a bfloat16 weight."""
    case = draw_case(replace(shape, accumulate=False, biases=False, column_scales=False), integers=False)
    halves = []
    for weight in case.weights:
        x, w = np.abs(oracle_int8.rotate(case.x)), np.abs(oracle_int8.rotate(weight))
        row_step, column_step = oracle_int8.quantize(case.x)[1] / 2, oracle_int8.quantize(weight)[1] / 2
        error = row_step[:, None] * w.sum(1) + x.sum(1)[:, None] * column_step + row_step[:, None] * column_step * x.shape[1]
        halves.append(error / oracle_int8.ROTATION)
    bound = np.concatenate(halves, axis=1) * 1.001 + case.bound()
    assert np.all(np.abs(Kernel(case, capability, 1, "int8").run() - case.expected()) <= bound)


@each_capability
def test_outliers_cost_little_precision(capability: str) -> None:
    """What the rotation is for: with a few depths 64 times as large as the rest, the root mean square error stays below 1.5 % of
    the outputs, and above rounding without rotation it is at most a half."""
    case = plain(576, 192, 32)
    expected = case.expected()
    error = np.sqrt(np.mean((Kernel(case, capability, 2, "int8").run() - expected) ** 2))
    x, w = case.x.astype(np.float64), case.weights[0].astype(np.float64)
    steps = [np.abs(side).max(1, keepdims=True) / 127 for side in (x, w)]
    unrotated = (np.rint(x / steps[0]) * steps[0]) @ (np.rint(w / steps[1]) * steps[1]).T
    assert error < 0.015 * np.sqrt(np.mean(expected**2))
    assert error < 0.5 * np.sqrt(np.mean((unrotated - expected) ** 2))


def test_the_rotation_keeps_products() -> None:
    """Rotating both sides multiplies every product by 64 and nothing else; twice is 64 times the identity. Integers show it."""
    generator = np.random.default_rng(1)
    for depth in (1, 7, 64, 100, 579):
        x, w = generator.integers(-3, 4, (5, depth)), generator.integers(-3, 4, (9, depth))
        np.testing.assert_array_equal(oracle_int8.rotate(x) @ oracle_int8.rotate(w).T, 64 * x @ w.T)
        twice = oracle_int8.rotate(oracle_int8.rotate(x))
        np.testing.assert_array_equal(twice[:, :depth], 64 * x)
        assert not twice[:, depth:].any()


@each_capability
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(capability: str, sign: int) -> None:
    """One element per rotated block on either side makes every rounded value 127 or -127: pairs of products are far above 16
    bits, and the sum of all of them is exact."""
    case = plain(4096, 64, 20)
    case.x[:], case.weights[0][:] = 0, 0
    case.x[:, ::64], case.weights[0][:, ::64] = 2, 3 * sign
    q, _ = oracle_int8.quantize(case.x)
    assert np.all(np.abs(q) == 127)
    result = Kernel(case, capability, 2, "int8").run()
    np.testing.assert_array_equal(result, exact(case))
    np.testing.assert_allclose(result, 6 * sign * 64, rtol=1e-6)


@each_capability
def test_zero_rows_and_columns_are_exactly_zero(capability: str) -> None:
    """A row or a column of zeros, or of numbers too small to divide by, has the product 0, not NaN."""
    case = plain(100, 48, 9)
    case.x[2], case.x[5], case.weights[0][7] = 0, 2.0**-130, 0
    result = Kernel(case, capability, 1, "int8").run()
    assert not result[2].any()
    assert not result[5].any()
    assert not result[:, 7].any()
    assert result.any()


@each_capability
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_a_row_that_is_not_finite_harms_no_other(capability: str, value: float) -> None:
    """A row with infinities or NaN, or whose rotation overflows, is NaN throughout; its neighbours keep their bits."""
    case = plain(100, 48, 9)
    expected = Kernel(case, capability, 1, "int8").run()
    case.x[4, 60:64] = value
    result = Kernel(case, capability, 1, "int8").run()
    assert np.isnan(result[4]).all()
    others = np.arange(9) != 4
    np.testing.assert_array_equal(result[others], expected[others])


def test_an_int8_weight_takes_half_the_bytes() -> None:
    """The memory is the point: one byte an element, and eight a column for the scale and the start of its sums."""
    weight = Linear(runtime("scalar", 1), [np.zeros((576, 1536), np.uint16)], [None], "int8")
    assert weight.bytes == 576 * (1536 + 8)
    assert (weight.columns, weight.depth, weight.width, weight.part_columns) == (576, 1536, 48, [576])


def test_what_cannot_be_int8_is_refused_by_name() -> None:
    """An unknown kind and a depth whose sums could overflow are a ValueError, never a wrong product."""
    with pytest.raises(ValueError, match="quantization must be none or int8, not int4"):
        Linear(runtime("scalar", 1), [np.zeros((4, 8), np.uint16)], [None], "int4")
    with pytest.raises(ValueError, match="depth of at most 131072, not 131073"):
        Linear(runtime("scalar", 1), [bits(np.zeros((1, 131073)))], [None], "int8")
