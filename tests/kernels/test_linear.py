"""Packed linear layers with LoRA segments, on every instruction set of the machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manylora.kernels import (
    Adapter,
    Arena,
    Linear,
    Matrix,
    Segments,
    capabilities,
    gated_linear,
    linear,
    oracle,
    silu_multiply,
)

from .linear_cases import SITE, Kernel, Shape, bits, draw_case, pack_adapter, runtime, shapes

CAPABILITIES = capabilities()
FAST = [name for name in CAPABILITIES if name != "scalar"]
quick = settings(max_examples=120, deadline=None)


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(shape=shapes(), threads=st.sampled_from([1, 2]))
def test_integers_are_exact(capability: str, threads: int, shape: Shape) -> None:
    """Each element lands where the oracle has it and low-rank activations round once: with small integers all else is exact."""
    case = draw_case(shape, integers=True)
    np.testing.assert_array_equal(Kernel(case, capability, threads).run(), case.expected())


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(shape=shapes())
def test_error_is_within_the_derived_bound(capability: str, shape: Shape) -> None:
    """A kernel errs by its fp32 chain and by one bfloat16 rounding of the low-rank activations, and by nothing else."""
    case = draw_case(shape, integers=False)
    error = np.abs(Kernel(case, capability, 1).run() - case.expected())
    assert np.all(error <= case.bound()), f"largest error over bound: {np.max(error / case.bound())}"


@pytest.mark.skipif("avx2" not in CAPABILITIES, reason="this machine has no AVX2")
@quick
@given(shape=shapes())
def test_avx2_has_the_bits_of_the_specification(shape: Shape) -> None:
    """AVX2 adds in the specification's order, and products of bfloat16 are exact: the scalar kernel and it agree to the bit."""
    case = draw_case(shape, integers=False)
    np.testing.assert_array_equal(Kernel(case, "avx2", 2).run(), Kernel(case, "scalar", 1).run())


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@settings(max_examples=60, deadline=None)
@given(shape=shapes(), data=st.data())
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    capability: str, quantization: str, shape: Shape, data: st.DataObject
) -> None:
    """Batch invariance: tile, position, segment length, neighbours and threads change no bit of a row."""
    kernel = Kernel(draw_case(shape, integers=False), capability, 1, quantization)
    together = kernel.run()
    np.testing.assert_array_equal(Kernel(kernel.case, capability, 2, quantization).run(), together)
    owner = {row: index for start, stop, index in shape.spans for row in range(start, stop)}
    for row in {0, shape.rows - 1, data.draw(st.integers(0, shape.rows - 1))}:
        alone = kernel.run([row], [(0, 1, owner[row])] if row in owner else [])
        np.testing.assert_array_equal(alone[0], together[row])
    order = data.draw(st.permutations(range(shape.rows)))
    one_by_one = [(place, place + 1, owner[row]) for place, row in enumerate(order) if row in owner]
    np.testing.assert_array_equal(kernel.run(order, one_by_one), together[list(order)])


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("depth", [1057, 1056])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_long_depths_and_many_rows(capability: str, depth: int, quantization: str) -> None:
    """Depth blocks and row blocks, which small sizes never reach, keep the chain: rows have the bits they have alone."""
    spans = ((0, 100, 0), (130, 131, 1), (131, 260, 0))
    shape = Shape(depth, (96, 33), ((16, 7), (0, 64)), 300 if capability != "scalar" else 140, spans, True, False, True, 5)
    shape = Shape(**{**shape.__dict__, "spans": tuple((a, min(b, shape.rows), i) for a, b, i in spans)})
    case = draw_case(shape, integers=False)
    together = Kernel(case, capability, 2, quantization).run()
    if quantization == "none":
        assert np.all(np.abs(together - case.expected()) <= case.bound())
    owner = {row: index for start, stop, index in shape.spans for row in range(start, stop)}
    alone = Kernel(case, capability, 1, quantization)
    for row in (0, 99, 100, 130, shape.rows - 1):
        np.testing.assert_array_equal(alone.run([row], [(0, 1, owner[row])] if row in owner else [])[0], together[row])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_rounding_of_low_rank_activations_is_to_nearest_even(capability: str) -> None:
    """scale * (A x) is rounded once, to nearest, ties to even: 257 becomes 256, 259 becomes 260, 258.5 becomes 258."""
    for value, scale, rounded in ((257, 1.0, 256), (259, 1.0, 260), (517, 0.5, 258), (-257, 1.0, -256), (86, 3.0, 258)):
        a = np.ones((1, 600), np.float32)
        x = np.zeros((1, 600), np.float32)
        x[0, : abs(value)] = np.sign(value)
        shape = Shape(600, (32,), ((1,),), 1, ((0, 1, 0),), False, False, False, 0)
        case = draw_case(shape, integers=True)
        term = oracle.LoraTerm(0, 1, 0, a, np.ones((32, 1), np.float32), scale)
        case.weights[0][:] = 0
        case.adapters[0][0] = term
        case.x[:] = x
        assert Kernel(case, capability, 1).run()[0, 5] == rounded


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_other_sites_and_the_bare_product_ignore_adapters(capability: str) -> None:
    """An adapter acts at the sites it was given and nowhere else; site -1 is the base model for all rows."""
    shape = Shape(64, (48, 96), ((8, 3),), 9, ((0, 9, 0),), False, False, False, 3)
    case = draw_case(shape, integers=False)
    kernel = Kernel(case, capability, 1)
    bare = kernel.run(spans=[])
    np.testing.assert_array_equal(kernel.run(site=-1), bare)
    np.testing.assert_array_equal(kernel.run(site=SITE + 4), bare)
    np.testing.assert_array_equal(kernel.run(site=SITE - 1), bare)
    assert np.all(np.any(kernel.run() != bare, axis=1))


def test_scratch_survives_growing_shapes() -> None:
    """A bigger product after a smaller one, on one runtime, sees none of the smaller one's leavings."""
    for name in CAPABILITIES:
        for rows, rank in ((1, 1), (67, 65), (3, 2), (67, 64)):
            shape = Shape(
                96,
                (48,),
                ((rank,), (3,)),
                rows,
                ((0, 1, 1), (1, rows, 0)) if rows > 1 else ((0, 1, 0),),
                False,
                False,
                False,
                rows,
            )
            case = draw_case(shape, integers=True)
            np.testing.assert_array_equal(Kernel(case, name, 2).run(), case.expected())


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@settings(max_examples=40, deadline=None)
@given(shape=shapes(), columns=st.sampled_from([7, 48, 64, 96, 200]), threads=st.sampled_from([1, 2]))
def test_a_gated_product_has_the_bits_of_its_two_steps(
    capability: str, quantization: str, shape: Shape, columns: int, threads: int
) -> None:
    """Fusing the activation into the product of gate and up is a matter of speed: no bit of the answer knows of it."""
    ranks = tuple(tuple((of_parts * 2)[:2]) for of_parts in shape.ranks)
    case = draw_case(replace(shape, columns=(columns, columns), ranks=ranks, accumulate=False), integers=False)
    kernel = Kernel(case, capability, threads, quantization)
    gate_up = Matrix(shape.rows, 2 * columns, "float32")
    gate_up.array[:] = kernel.run()
    expected, y = Matrix(shape.rows, columns, "bfloat16"), Matrix(shape.rows, columns, "bfloat16")
    silu_multiply(kernel.runtime, shape.rows, gate_up, expected)
    x = Matrix(shape.rows, shape.depth, "bfloat16")
    x.array[:] = bits(case.x)
    segments = Segments(shape.rows)
    segments.reset(shape.rows)
    for start, stop, index in shape.spans:
        segments.add(start, stop, kernel.adapters[index])
    gated_linear(kernel.runtime, shape.rows, segments, x, kernel.weight, SITE, y)
    np.testing.assert_array_equal(y.array, expected.array)


def test_a_gated_product_needs_a_gate_and_an_up() -> None:
    """A weight of other parts, or an output of another shape or type, is refused by name."""
    run = runtime(CAPABILITIES[-1], 1)
    pair, single = (Linear(run, [np.zeros((32, 8), np.uint16)] * parts, [None] * parts) for parts in (2, 1))
    uneven = Linear(run, [np.zeros((32, 8), np.uint16), np.zeros((48, 8), np.uint16)], [None, None])
    segments = Segments(0)
    x, y = Matrix(2, 8, "bfloat16"), Matrix(2, 32, "bfloat16")
    for weight, y_, message in (
        (single, y, "must be gate and up"),
        (uneven, y, "must be gate and up"),
        (pair, Matrix(2, 31, "bfloat16"), "width of y is 31, not 32"),
        (pair, Matrix(2, 32, "float32"), "y must be bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            gated_linear(run, 2, segments, x, weight, -1, y_)


def test_wrong_shapes_are_refused_by_name() -> None:
    """A shape, type or segment that does not fit is a ValueError that says what and what was wanted, never a wrong read."""
    run = runtime(CAPABILITIES[-1], 1)
    weight = Linear(run, [np.zeros((32, 8), np.uint16)], [None])
    segments = Segments(2)
    segments.reset(2)
    x, y = Matrix(2, 8, "bfloat16"), Matrix(2, 32, "float32")
    for rows, x_, y_, message in (
        (3, x, y, "3 rows do not fit"),
        (-1, x, y, "-1 rows do not fit"),
        (2, Matrix(2, 9, "bfloat16"), y, "width of x is 9, not 8"),
        (2, x, Matrix(2, 31, "float32"), "width of y is 31, not 32"),
        (2, Matrix(2, 8, "float32"), y, "x must be bfloat16"),
        (2, x, Matrix(2, 32, "bfloat16"), "y must be float32"),
    ):
        with pytest.raises(ValueError, match=message):
            linear(run, rows, segments, x_, weight, -1, y_, False)
    with pytest.raises(ValueError, match="same depth"):
        Linear(run, [np.zeros((4, 8), np.uint16), np.zeros((4, 9), np.uint16)], [None, None])
    with pytest.raises(ValueError, match="one bias, or None"):
        Linear(run, [np.zeros((4, 8), np.uint16)], [])
    with pytest.raises(ValueError, match="as many elements"):
        Linear(run, [np.zeros((4, 8), np.uint16)], [np.zeros(5, np.float32)])
    with pytest.raises(ValueError, match="1 to 3 parts"):
        Linear(run, [], [])


def test_segments_must_ascend_within_the_rows() -> None:
    """Segments are disjoint, ascending, inside the step and no more than announced: a row has at most one adapter."""
    adapter = Adapter(Arena(64))
    segments = Segments(2)
    segments.reset(10)
    segments.add(2, 5, adapter)
    for start, stop in ((4, 6), (5, 5), (7, 6), (9, 11), (-1, 3)):
        with pytest.raises(ValueError, match="segment"):
            segments.add(start, stop, adapter)
    segments.add(5, 10, adapter)
    with pytest.raises(ValueError, match="segment"):
        segments.add(9, 10, adapter)
    assert len(segments) == 2
    run = runtime(CAPABILITIES[-1], 1)
    weight = Linear(run, [np.zeros((32, 8), np.uint16)], [None])
    with pytest.raises(ValueError, match="rows of the segments is 10, not 4"):
        linear(run, 4, segments, Matrix(4, 8, "bfloat16"), weight, -1, Matrix(4, 32, "float32"), False)
    segments.reset(0)
    assert len(segments) == 0


def test_adapter_pieces_must_lie_in_the_arena() -> None:
    """A piece outside the arena, off the 64-byte grid, or set twice is refused: a product never reads past the end."""
    arena = Arena(4096)
    adapter = Adapter(arena)
    for a, b, scale in ((-1, 0, -1), (0, -64, -1), (4096, 0, -1), (0, 8192, -1), (32, 0, -1), (0, 0, 4096), (0, 0, 2)):
        with pytest.raises(ValueError, match="offset"):
            adapter.set(0, 0, 4, 1.0, a, b, scale)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        adapter.set(0, 0, 0, 1.0, 0, 64)
    with pytest.raises(ValueError, match="does not exist"):
        adapter.set(0, 3, 4, 1.0, 0, 64)
    adapter.set(0, 0, 4, 1.0, 4032, 0)
    with pytest.raises(ValueError, match="set already"):
        adapter.set(0, 0, 4, 1.0, 0, 0)
    run = runtime(CAPABILITIES[-1], 1)
    weight = Linear(run, [np.zeros((32, 8), np.uint16)], [None])
    segments = Segments(1)
    segments.reset(1)
    segments.add(0, 1, adapter)
    with pytest.raises(ValueError, match="the adapter's A at 4032 needs 256 bytes"):
        linear(run, 1, segments, Matrix(1, 8, "bfloat16"), weight, 0, Matrix(1, 32, "float32"), False)


def test_segments_keep_their_adapters_alive() -> None:
    """A segment list is enough to keep an adapter, and through it the arena: nothing dangles between plan and product."""
    shape = Shape(64, (48,), ((8,),), 4, ((0, 4, 0),), False, False, False, 3)
    case = draw_case(shape, integers=True)
    run = runtime(CAPABILITIES[-1], 1)
    weight = Linear(run, [bits(case.weights[0])], [None])
    segments = Segments(1)
    segments.reset(4)
    segments.add(0, 4, pack_adapter(case.adapters[0], weight.width))
    for _ in range(8):
        Arena(4096).array[:] = 0xFF  # would reuse the memory if it had been given back
    x, y = Matrix(4, 64, "bfloat16"), Matrix(4, 48, "float32")
    x.array[:] = bits(case.x)
    linear(run, 4, segments, x, weight, SITE, y, False)
    np.testing.assert_array_equal(y.array, case.expected())
