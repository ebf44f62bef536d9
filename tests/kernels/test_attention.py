"""Attention over cache pages, with the rotary embedding that fills them, on every instruction set of the machine."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manylora.kernels import Arena, Batch, KvCache, Matrix, attention, capabilities, kv_block_bytes, oracle_rows
from manylora.kernels.oracle import round_bfloat16

from .attention_cases import Heads, Outcome, Sequences, Span, as_floats, runtime

CAPABILITIES = capabilities()
HEADS = [
    Heads(1, 1, 16),
    Heads(2, 3, 48),
    Heads(3, 3, 64),
    Heads(2, 1, 80),
    Heads(1, 5, 96),
    Heads(2, 4, 128, norm=True),
    Heads(1, 16, 112),
    Heads(2, 7, 256),
]
FLOAT32_ROUNDOFF, BFLOAT16_ROUNDOFF = 2.0**-24, 2.0**-8  # half an ulp, relative, at its largest


def errors_and_bounds(outcome: Outcome, sequence: int, capability: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far outputs are from the oracle, and how far they may be; [length, heads, head_dim].

    Weights err relatively by the absolute error of their scores (a chain of head_dim products in fp32), by e^x and the sum (2e-7
    and a chain of groups) and, with avx512bf16, by a bfloat16 rounding; each enters once above and once below the division. The
    output is rounded to bfloat16.
    """
    q, k, v = outcome.q[sequence], outcome.k[sequence], outcome.v[sequence]
    length, _, head_dim = q.shape
    largest = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max() / np.sqrt(head_dim)
    weight = head_dim * FLOAT32_ROUNDOFF * largest + 2e-7 + length * FLOAT32_ROUNDOFF
    if capability in ("avx512bf16", "amx"):  # the weights are operands of bfloat16 products
        weight += BFLOAT16_ROUNDOFF
    exact, magnitude = oracle_rows.attention(q, k, v, np.arange(length))
    limit = 2 * weight * magnitude
    error: NDArray[np.float64] = np.abs(as_floats(outcome.outputs[sequence]).reshape(exact.shape) - exact)
    return error, limit + (np.abs(exact) + limit) * BFLOAT16_ROUNDOFF * 1.01


def whole(sequences: Sequences) -> list[list[Span]]:
    """Every sequence in one step."""
    return [[(i, 0, length) for i, length in enumerate(sequences.lengths)]]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("heads", HEADS, ids=lambda h: f"{h.kv_heads}x{h.group}x{h.head_dim}")
def test_attention_is_within_the_derived_bound(capability: str, heads: Heads) -> None:
    """Every head shape, at contexts about the edges of blocks, groups and partitions, over scattered blocks amid NaN."""
    long = (520,) if capability == "scalar" else (511, 513, 1100) if heads.heads < 8 else (513,)
    lengths = (1, 15, 16, 17, 31, 32, 33, 100, *long)
    sequences = Sequences(heads, lengths, seed=heads.head_dim)
    outcome = sequences.run(capability, 2, whole(sequences))
    for sequence, length in enumerate(lengths):
        error, limit = errors_and_bounds(outcome, sequence, capability)
        assert (error <= limit).all(), f"sequence of {length}: error over bound {np.max(error / limit)}"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("heads", [Heads(1, 2, 16), Heads(3, 3, 64)], ids=["small", "smollm2"])
def test_prefill_whole_chunked_and_token_by_token_are_bit_identical(capability: str, heads: Heads) -> None:
    """Prefill and decode share one order per row: how a prompt is cut changes no bit, across two partition borders."""
    length = 1100 if capability != "scalar" else 530
    sequences = Sequences(heads, [length], seed=1)
    (reference,) = sequences.outputs(capability, 1, whole(sequences))
    assert np.isfinite(as_floats(reference)).all()
    cuts = [0, 1, 17, 64, 65, 511, 513, 520, length]
    chunked = [[(0, start, stop)] for start, stop in pairwise(cuts)]
    tokens = [[(0, position, position + 1)] for position in range(length)]
    np.testing.assert_array_equal(sequences.outputs(capability, 2, chunked)[0], reference)
    np.testing.assert_array_equal(sequences.outputs(capability, 2, tokens)[0], reference)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Heads, list[int], list[list[Span]], int]:
    """Sequences, and steps that together compute each of them once, in any chunks, beside any others."""
    heads = Heads(
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 3, 5, 16])),
        draw(st.sampled_from([16, 48, 64, 80])),
        draw(st.booleans()),
    )
    lengths = draw(st.lists(st.one_of(st.integers(1, 70), st.sampled_from([300, 600])), min_size=1, max_size=5))
    done = [0] * len(lengths)
    steps: list[list[Span]] = []
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        left = [i for i, length in enumerate(lengths) if done[i] < length]
        chosen = draw(st.permutations(left))[: draw(st.integers(1, len(left)))]
        step = []
        for i in chosen:
            rest = lengths[i] - done[i]
            rows = min(rest, draw(st.sampled_from([1, 2, 11, 32, 33, rest]))) if len(steps) < 12 else rest
            step.append((i, done[i], done[i] + rows))
            done[i] += rows
        steps.append(step)
    return heads, lengths, steps, draw(st.integers(0, 1000))


@pytest.mark.parametrize("capability", CAPABILITIES)
@settings(max_examples=25, deadline=None)
@given(schedule=schedules(), threads=st.sampled_from([1, 2]))
def test_a_row_has_the_same_bits_in_any_step(
    capability: str, threads: int, schedule: tuple[Heads, list[int], list[list[Span]], int]
) -> None:
    """Batch invariance: neighbours, chunks, block placement and threads change no bit of a row."""
    assert_same_bits_in_any_step(capability, threads, schedule)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@settings(max_examples=150, deadline=None)
@given(schedule=schedules(), threads=st.sampled_from([1, 2, 3, 5]))
def test_a_row_has_the_same_bits_in_many_more_steps(
    capability: str, threads: int, schedule: tuple[Heads, list[int], list[list[Span]], int]
) -> None:
    """The same, searched for longer and with more threads than processors."""
    assert_same_bits_in_any_step(capability, threads, schedule)


def assert_same_bits_in_any_step(capability: str, threads: int, schedule: tuple[Heads, list[int], list[list[Span]], int]) -> None:
    heads, lengths, steps, seed = schedule
    sequences = Sequences(heads, lengths, seed)
    mixed = sequences.outputs(capability, threads, steps)
    for sequence, length in enumerate(lengths):
        alone = sequences.outputs(capability, 1, [[(sequence, 0, length)]])
        np.testing.assert_array_equal(mixed[sequence], alone[sequence])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_splitting_partitions_over_threads_changes_no_bit(capability: str) -> None:
    """One long sequence uses all threads: partitions computed apart merge as they do one after the other."""
    heads, length = Heads(1, 2, 32), 2100
    sequences = Sequences(heads, [length, 40], seed=9)
    steps: list[list[Span]] = [[(0, 0, 1000)], [(0, 1000, 2090), (1, 0, 39)], *([(0, i, i + 1)] for i in range(2090, length))]
    if capability == "scalar":
        steps = [[(0, i, i + 100)] for i in range(0, length, 100)]
    expected = sequences.outputs(capability, 1, steps)
    for threads in (2, 3, 64):
        actual = sequences.outputs(capability, threads, steps)
        np.testing.assert_array_equal(actual[0], expected[0])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_large_scores_neither_overflow_nor_leak(capability: str) -> None:
    """Online softmax: scores of hundreds, rising and falling, give a convex combination of V."""
    sequences = Sequences(Heads(1, 1, 64), [200], seed=4)
    sequences.qkv[0][:, :128] *= np.linspace(0.1, 12, 200)[:, None]
    outcome = sequences.run(capability, 1, whole(sequences))
    v = outcome.v[0][:, 0]
    low, high = np.minimum.accumulate(v), np.maximum.accumulate(v)
    values, slack = as_floats(outcome.outputs[0]), 0.02 * np.abs(v).max()
    assert ((values >= low - slack) & (values <= high + slack)).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_later_token_is_not_felt_even_if_it_is_not_finite(capability: str, value: float) -> None:
    """A row's answer does not depend on tokens behind it that share its step: not through zero weights either, for zero times
    infinity is no zero."""
    heads = Heads(2, 3, 64)
    sequences = Sequences(heads, (90,), seed=3)
    for token in (20, 77):
        sequences.qkv[0][token, -heads.kv_heads * heads.head_dim :] = value
    together = sequences.outputs(capability, 2, whole(sequences))[0]
    alone = sequences.outputs(capability, 1, [[(0, token, token + 1)] for token in range(90)])[0]
    np.testing.assert_array_equal(together[:20], alone[:20])
    assert np.isfinite(as_floats(together[:20])).all()


def test_capabilities_agree_with_the_specification() -> None:
    """Instruction sets differ from the scalar kernel by their rounding only, far below the size of the values."""
    sequences = Sequences(Heads(2, 3, 64), [130, 33], seed=2)
    reference = sequences.run("scalar", 1, whole(sequences))
    for capability in CAPABILITIES[1:]:
        outcome = sequences.run(capability, 1, whole(sequences))
        for sequence in range(2):
            np.testing.assert_array_equal(outcome.q[sequence], reference.q[sequence])
            np.testing.assert_array_equal(outcome.k[sequence], reference.k[sequence])
            _, limit = errors_and_bounds(outcome, sequence, capability)
            _, other = errors_and_bounds(reference, sequence, "scalar")
            difference = np.abs(as_floats(outcome.outputs[sequence]) - as_floats(reference.outputs[sequence]))
            assert (difference.reshape(limit.shape) <= limit + other).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 256])
def test_rotary_fills_q_and_the_pages(capability: str, norm: bool, head_dim: int) -> None:
    """q, k and v are rounded once to bfloat16, each token in its place of its block, and nothing else of the cache is touched."""
    sequences = Sequences(Heads(2, 2, head_dim, norm), [1, 37, 50], seed=head_dim)
    outcome = sequences.run(capability, 2, [[(2, 0, 33)], [(1, 0, 37), (2, 33, 50)]])
    for sequence in (1, 2):
        q, k, v = sequences.projections(sequence)
        np.testing.assert_array_equal(outcome.v[sequence], round_bfloat16(v))
        for actual, exact in ((outcome.q[sequence], q), (outcome.k[sequence], k)):
            size = np.hypot(*np.split(np.abs(exact), 2, axis=-1))  # a rotated pair's errors are relative to its length
            slack = np.concatenate([size, size], axis=-1) * (head_dim + 4) * FLOAT32_ROUNDOFF
            assert (np.abs(actual - exact) <= slack + (np.abs(exact) + slack) * BFLOAT16_ROUNDOFF).all()
    assert np.isnan(outcome.k[0]).all()
    assert np.isnan(outcome.v[0]).all()
    assert outcome.written == 2 * 2 * head_dim * (37 + 50)


# ---- what is refused


def test_batch_says_what_is_wrong() -> None:
    """A step that would read or write outside its memory is refused by name, before anything runs."""
    batch = Batch(8, 3, 4, 2)
    batch.block_tables[:] = [[0, 1], [2, 3], [4, 5], [-1, -1]]

    def begin(starts: list[int], slots: list[int], positions: list[int]) -> None:
        batch.sequence_starts[: len(starts)] = starts
        batch.sequence_slots[: len(slots)] = slots
        batch.positions[: len(positions)] = positions
        batch.begin(starts[-1], len(starts) - 1)

    begin([0, 2, 3], [1, 0], [5, 6, 31])
    wrong: dict[str, tuple[list[int], list[int], list[int]]] = {
        "rows": ([0, 9], [0], []),
        "begin with 0": ([1, 2], [0], [0, 0]),
        "must rise": ([0, 2, 2], [0, 1], [0, 1]),
        "has slot 4": ([0, 1], [4], [0]),
        "as another one": ([0, 1, 2], [1, 1], [0, 0]),
        "not consecutive": ([0, 2], [0], [0, 2]),
        "holds 32": ([0, 2], [0], [31, 32]),
        "has positions -1": ([0, 1], [0], [-1]),
        "needs block 0": ([0, 1], [3], [0]),
    }
    for match, arguments in wrong.items():
        with pytest.raises(ValueError, match=match):
            begin(*arguments)
    begin([0, 2], [0], [0, 1])
    with pytest.raises(ValueError, match="end at 2"):
        batch.begin(3, 1)
    with pytest.raises(ValueError, match="sequences"):
        batch.begin(1, 4)
    batch.token_ids[0] = -1
    with pytest.raises(ValueError, match="token_ids"):
        begin([0, 1], [0], [0])
    with pytest.raises(ValueError, match="max_blocks"):
        Batch(1, 1, 1, 0)


def test_cache_and_shapes_are_checked() -> None:
    """Blocks beyond the arena, foreign layers, head shapes and matrices that do not fit raise ValueError."""
    for head_dim in (0, 8, 24, 272):
        with pytest.raises(ValueError, match="head_dim"):
            kv_block_bytes(1, 1, head_dim)
    assert kv_block_bytes(30, 3, 64) == 30 * 3 * 64 * 16 * 2 * 2
    arena = Arena(5 * kv_block_bytes(2, 1, 16) - 1)
    kv = KvCache(arena, 2, 1, 16)
    assert (kv.blocks, kv.block_bytes) == (4, kv_block_bytes(2, 1, 16))
    batch, pool = Batch(4, 1, 1, 8), runtime("scalar", 1)
    batch.sequence_starts[1] = 1
    batch.block_tables[0, 0] = 4
    batch.begin(1, 1)
    q, out = Matrix(4, 32, "bfloat16"), Matrix(4, 32, "bfloat16")
    with pytest.raises(ValueError, match="block 4"):
        attention(pool, batch, q, kv, 0, out)
    batch.block_tables[0, 0] = 3
    batch.begin(1, 1)
    attention(pool, batch, q, kv, 1, out)
    with pytest.raises(ValueError, match="layer 2"):
        attention(pool, batch, q, kv, 2, out)
    with pytest.raises(ValueError, match="out must be"):
        attention(pool, batch, q, kv, 0, Matrix(4, 16, "bfloat16"))
    with pytest.raises(ValueError, match="q must be"):
        attention(pool, batch, Matrix(4, 32, "float32"), kv, 0, out)
    for columns in (24, 17 * 16):
        with pytest.raises(ValueError, match="1 to 16 heads"):
            attention(pool, batch, Matrix(4, columns, "bfloat16"), kv, 0, out)
