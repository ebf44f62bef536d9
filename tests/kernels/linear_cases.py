"""Random linear layers with adapters, run by the kernels: what the tests of this directory share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from manylora.kernels import (
    Adapter,
    Arena,
    Linear,
    Matrix,
    Runtime,
    Segments,
    linear,
    lora_a_bytes,
    lora_b_bytes,
    oracle,
    pack_lora_a,
    pack_lora_b,
    panel_width,
)

BF16 = ml_dtypes.bfloat16
SITE = 6
Span = tuple[int, int, int]  # start, stop, adapter


@cache
def runtime(capability: str, threads: int) -> Runtime:
    """One pool of threads for all cases: making one for each would be most of the time."""
    return Runtime(threads, capability)


@dataclass(frozen=True)
class Shape:
    """What a case is drawn from; the numbers follow from the seed."""

    depth: int
    columns: tuple[int, ...]
    ranks: tuple[tuple[int, ...], ...]  # of each adapter: of each part; 0: the part is left alone
    rows: int
    spans: tuple[Span, ...]
    biases: bool
    column_scales: bool
    accumulate: bool
    seed: int


@dataclass(frozen=True)
class Case:
    shape: Shape
    x: NDArray[np.floating]
    y: NDArray[np.float32]
    weights: list[NDArray[np.floating]]
    biases: list[NDArray[np.float32] | None]
    adapters: list[dict[int, oracle.LoraTerm]]  # by part; rows are of no meaning

    def terms(self) -> list[oracle.LoraTerm]:
        return [
            replace(term, start=start, stop=stop)
            for start, stop, index in self.shape.spans
            for term in self.adapters[index].values()
        ]

    def expected(self) -> NDArray[np.float64]:
        product = oracle.linear(self.x, self.weights, self.biases, self.terms())
        return product + self.y if self.shape.accumulate else product

    def bound(self) -> NDArray[np.float64]:
        bound = oracle.linear_error_bound(self.x, self.weights, self.biases, self.terms())
        return bound + np.abs(self.expected()) * 2.0**-23 if self.shape.accumulate else bound


def draw_case(shape: Shape, integers: bool) -> Case:
    """Small integers, whose every sum is exact in float32, or normal numbers."""
    generator = np.random.default_rng(shape.seed)

    def numbers(*size: int, most: int) -> NDArray[np.float32]:
        drawn = generator.integers(-most, most + 1, size) if integers else generator.standard_normal(size)
        return drawn.astype(BF16).astype(np.float32)

    adapters = []
    for ranks in shape.ranks:
        parts = {}
        for part, (rank, columns) in enumerate(zip(ranks, shape.columns, strict=True)):
            if rank == 0:
                continue
            scale = numbers(columns, most=3) if shape.column_scales else None
            bias = numbers(columns, most=9) if shape.biases and generator.random() < 0.5 else None
            a, b = numbers(rank, shape.depth, most=2), numbers(columns, rank, most=2)
            parts[part] = oracle.LoraTerm(0, 0, part, a, b, float(generator.choice([0.5, 1.0, 2.0, 3.0])), scale, bias)
        adapters.append(parts)
    return Case(
        shape,
        numbers(shape.rows, shape.depth, most=2),
        numbers(shape.rows, sum(shape.columns), most=9),
        [numbers(columns, shape.depth, most=2) for columns in shape.columns],
        [numbers(columns, most=9) if shape.biases and part != 1 else None for part, columns in enumerate(shape.columns)],
        adapters,
    )


def bits(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    return np.ascontiguousarray(values.astype(BF16)).view(np.uint16)


def pack_adapter(parts: dict[int, oracle.LoraTerm], width: int, site: int = SITE) -> Adapter:
    """An adapter alone in its arena, every piece at the next multiple of 64 bytes, poison between the pieces."""
    rows = list(parts.values())
    sizes = [
        (
            lora_a_bytes(term.a.shape[0], term.a.shape[1]),
            lora_b_bytes(term.a.shape[0], term.b.shape[0], width),
            0 if term.column_scale is None else term.b.shape[0] * 4,
            0 if term.bias is None else term.b.shape[0] * 4,
        )
        for term in rows
    ]
    padded = [[(size + 63) // 64 * 64 + 64 if size else 0 for size in of_part] for of_part in sizes]
    arena = Arena(max(1, sum(map(sum, padded))))
    arena.array[:] = 0xFF  # NaN in both bfloat16 and float32
    adapter, offset = Adapter(arena), 0
    for term, size, step in zip(rows, sizes, padded, strict=True):
        starts = [offset + sum(step[:i]) for i in range(4)]
        pieces = [arena.array[start : start + length] for start, length in zip(starts, size, strict=True)]
        pack_lora_a(bits(term.a), pieces[0])
        pack_lora_b(bits(term.b), width, pieces[1])
        for values, piece in ((term.column_scale, pieces[2]), (term.bias, pieces[3])):
            if values is not None:
                piece[:] = values.astype(np.float32).view(np.uint8)
        column_scale = -1 if term.column_scale is None else starts[2]
        bias = -1 if term.bias is None else starts[3]
        adapter.set(site, term.part, term.a.shape[0], term.scale, starts[0], starts[1], column_scale, bias)
        offset += sum(step)
    return adapter


class Kernel:
    """A case's weight and adapters packed for one capability and thread count."""

    def __init__(self, case: Case, capability: str, threads: int, quantization: str = "none") -> None:
        self.case = case
        self.runtime = runtime(capability, threads)
        self.weight = Linear(self.runtime, [bits(weight) for weight in case.weights], case.biases, quantization)
        self.adapters = [pack_adapter(parts, panel_width(list(case.shape.columns))) for parts in case.adapters]

    def run(
        self, rows: Sequence[int] | None = None, spans: Sequence[Span] | None = None, site: int = SITE
    ) -> NDArray[np.float32]:
        """The outputs of the case's rows, or of those listed, with the case's segments or the given ones.

        The matrices have a row more than used and NaN wherever the kernel has no business; what it left there is checked.
        """
        shape = self.case.shape
        taken = list(range(shape.rows)) if rows is None else list(rows)
        x = Matrix(len(taken) + 1, shape.depth, "bfloat16")
        y = Matrix(len(taken) + 1, sum(shape.columns), "float32")
        x.array[:] = 0xFFFF
        x.array[:-1] = bits(self.case.x[taken])
        memory = poison_padding(y)
        if shape.accumulate:
            y.array[:-1] = self.case.y[taken]
        before = memory.copy()
        segments = Segments(len(taken))
        segments.reset(len(taken))
        for start, stop, index in shape.spans if spans is None else spans:
            segments.add(start, stop, self.adapters[index])
        linear(self.runtime, len(taken), segments, x, self.weight, site, y, shape.accumulate)
        result = y.array[:-1].copy()
        y.array[:-1] = before[:-1, : result.shape[1]]
        assert np.array_equal(memory.view(np.uint32), before.view(np.uint32)), "the kernel wrote outside its rows and columns"
        return result


def poison_padding(matrix: Matrix) -> NDArray[np.float32]:
    """The matrix with the padding at the end of each row, all NaN."""
    rows, stride = matrix.array.shape[0], matrix.array.strides[0] // 4
    memory = np.lib.stride_tricks.as_strided(matrix.array, (rows, stride), (stride * 4, 4))
    memory[:] = np.nan
    return memory


@st.composite
def spans_of(draw: st.DrawFn, rows: int, adapters: int) -> tuple[Span, ...]:
    """Segments in one of the popularities of traffic, some of them left to the base model."""
    kind = draw(st.sampled_from(["none", "identical", "distinct", "uniform", "zipf", "skewed"]))
    if kind == "none" or adapters == 0:
        return ()
    if kind == "identical":
        return ((0, rows, 0),)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spans, row = [], 0
    while row < rows:
        most = 1 if spans else rows - rows // 4
        length = {"distinct": 1, "uniform": 2, "zipf": min(int(generator.zipf(1.5)), 64), "skewed": most}[kind]
        stop = min(rows, row + length)
        if generator.random() < 0.8:
            spans.append((row, stop, int(generator.integers(adapters))))
        row = stop
    return tuple(spans)


@st.composite
def shapes(draw: st.DrawFn, most_rows: int = 67) -> Shape:
    """Sizes that straddle register widths, panels and tiles."""
    column_count = st.one_of(st.integers(1, 70), st.sampled_from([48, 64, 96, 128, 192]))
    columns = tuple(draw(st.lists(column_count, min_size=1, max_size=3)))
    rank = st.one_of(st.sampled_from([0, 1, 4, 8, 16]), st.integers(1, 65))
    rows = draw(st.integers(1, most_rows))
    ranks = tuple(draw(st.lists(st.tuples(*[rank] * len(columns)), min_size=0, max_size=3)))
    return Shape(
        depth=draw(st.one_of(st.integers(1, 130), st.sampled_from([256, 320]))),
        columns=columns,
        ranks=ranks,
        rows=rows,
        spans=draw(spans_of(rows, len(ranks))),
        biases=draw(st.booleans()),
        column_scales=draw(st.booleans()),
        accumulate=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
