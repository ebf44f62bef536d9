"""Sequences that grow in a K/V cache, run by the kernels in any split into steps: what the attention tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from manylora.kernels import Arena, Batch, KvCache, Matrix, Runtime, attention, kv_block_bytes, oracle_rows, rotary

BF16 = ml_dtypes.bfloat16
BLOCK = 16
EPS = 1e-5
Span = tuple[int, int, int]  # sequence, first position, last position + 1: its rows in one step


@cache
def runtime(capability: str, threads: int) -> Runtime:
    """One pool of threads for all cases: making one for each would be most of the time."""
    return Runtime(threads, capability)


def float32(values: NDArray[np.floating]) -> Matrix:
    matrix = Matrix(values.shape[0], values.shape[1], "float32")
    matrix.array[:] = values
    return matrix


@dataclass(frozen=True)
class Heads:
    kv_heads: int
    group: int
    head_dim: int
    norm: bool = False

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


@dataclass(frozen=True)
class Outcome:
    """What the kernels made of the sequences, each a list by sequence; bfloat16 as float64 but for the outputs.

    outputs [length, heads * head_dim], bits; 0xFFFF where no step computed a row. q [length, heads, head_dim] as rotated; k and v
    [length, kv_heads, head_dim] as read back from the pages. `written`: elements of all pages that are not the NaN they were.
    """

    outputs: list[NDArray[np.uint16]]
    q: list[NDArray[np.float64]]
    k: list[NDArray[np.float64]]
    v: list[NDArray[np.float64]]
    written: int


class Sequences:
    """Some sequences with known projections, and everything that they need to run on one capability."""

    def __init__(self, heads: Heads, lengths: Sequence[int], seed: int, layers: int = 2) -> None:
        self.heads, self.lengths, self.layers, self.max_rows = heads, lengths, layers, sum(lengths) + 2
        rng = np.random.default_rng(seed)
        width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim
        self.qkv = [(rng.normal(size=(length, width)) * 1.5).astype(np.float32) for length in lengths]
        angles = rng.uniform(0, 2 * np.pi, size=(max(lengths), heads.head_dim // 2))
        self.cos, self.sin = float32(np.cos(angles)), float32(np.sin(angles))
        self.norms = [float32(rng.uniform(0.5, 2, size=(1, heads.head_dim))) if heads.norm else None for _ in "qk"]
        counts = [-(-length // BLOCK) for length in lengths]
        self.blocks = sum(counts) + 3
        ids = rng.permutation(self.blocks)[: sum(counts)]  # scattered, and some blocks belong to nobody
        self.tables = np.split(ids, np.cumsum(counts)[:-1])
        self.slots = rng.permutation(len(lengths) + 2)[: len(lengths)]
        self.layer = int(rng.integers(layers))

    def fresh_cache(self) -> tuple[Arena, KvCache]:
        """A cache as a former tenant may have left it: nothing but NaN."""
        heads = self.heads
        arena = Arena(self.blocks * kv_block_bytes(self.layers, heads.kv_heads, heads.head_dim))
        arena.array[:] = 0xFF
        return arena, KvCache(arena, self.layers, heads.kv_heads, heads.head_dim)

    def outputs(self, capability: str, threads: int, steps: Sequence[Sequence[Span]]) -> list[NDArray[np.uint16]]:
        return self.run(capability, threads, steps).outputs

    def run(self, capability: str, threads: int, steps: Sequence[Sequence[Span]]) -> Outcome:
        """Runs the steps over a fresh cache."""
        heads, pool = self.heads, runtime(capability, threads)
        arena, kv = self.fresh_cache()
        q_norm, k_norm = self.norms
        batch = Batch(self.max_rows, len(self.lengths), len(self.lengths) + 2, max(len(table) for table in self.tables))
        for slot, table in zip(self.slots, self.tables, strict=True):
            batch.block_tables[slot, : len(table)] = table
        qkv = Matrix(self.max_rows, self.qkv[0].shape[1], "float32")
        q, out = (Matrix(self.max_rows, heads.heads * heads.head_dim, "bfloat16") for _ in range(2))
        results, rotated = (
            [np.full((length, heads.heads * heads.head_dim), 0xFFFF, np.uint16) for length in self.lengths] for _ in range(2)
        )
        for step in steps:
            rows = self._fill(batch, qkv, step)
            q.array[:], out.array[:] = 0xFFFF, 0xFFFF
            rotary(pool, batch, qkv, self.cos, self.sin, kv, self.layer, q, heads.heads, q_norm, k_norm, EPS)
            attention(pool, batch, q, kv, self.layer, out)
            assert (out.array[rows:] == 0xFFFF).all(), "rows beyond the step were written"
            for index, (sequence, start, stop) in enumerate(step):
                first = batch.sequence_starts[index]
                results[sequence][start:stop] = out.array[first : first + stop - start]
                rotated[sequence][start:stop] = q.array[first : first + stop - start]
        pages = [self._pages(arena, table, length) for table, length in zip(self.tables, self.lengths, strict=True)]
        written = int((arena.array.view(np.uint16) != 0xFFFF).sum())
        queries = [as_floats(bits).reshape(len(bits), heads.heads, heads.head_dim) for bits in rotated]
        return Outcome(results, queries, [k for k, _ in pages], [v for _, v in pages], written)

    def _pages(self, arena: Arena, table: NDArray[np.intp], length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """K and V of one sequence out of its blocks: [layer][kv head][K | V], K [pair][16][2], V [token pair][head_dim][2]."""
        dim = self.heads.head_dim
        blocks = arena.array.view(np.uint16).reshape(self.blocks, self.layers, self.heads.kv_heads, 2, BLOCK * dim)
        own = as_floats(blocks[table, self.layer])
        k = own[:, :, 0].reshape(len(table), -1, dim // 2, BLOCK, 2).transpose(0, 3, 1, 2, 4)
        v = own[:, :, 1].reshape(len(table), -1, BLOCK // 2, dim, 2).transpose(0, 2, 4, 1, 3)
        k, v = (side.reshape(len(table) * BLOCK, -1, dim)[:length] for side in (k, v))
        return k, v

    def _fill(self, batch: Batch, qkv: Matrix, step: Sequence[Span]) -> int:
        rows = 0
        qkv.array[:] = np.nan
        for index, (sequence, start, stop) in enumerate(step):
            batch.sequence_starts[index] = rows
            batch.sequence_slots[index] = self.slots[sequence]
            batch.positions[rows : rows + stop - start] = np.arange(start, stop)
            batch.token_ids[rows : rows + stop - start] = 0
            qkv.array[rows : rows + stop - start] = self.qkv[sequence][start:stop]
            rows += stop - start
        batch.sequence_starts[len(step)] = rows
        batch.begin(rows, len(step))
        return rows

    def projections(self, sequence: int) -> list[NDArray[np.float64]]:
        """Exact q, k (normed, rotated) and v of a sequence, [length, heads, head_dim]."""
        heads, length = self.heads, self.lengths[sequence]
        x = self.qkv[sequence].reshape(length, -1, heads.head_dim)
        sides = np.split(x.astype(np.float64), [heads.heads, heads.heads + heads.kv_heads], axis=1)
        cos, sin = (side.array[:length, None, :] for side in (self.cos, self.sin))
        for i, norm in enumerate(self.norms):
            normed = sides[i] if norm is None else oracle_rows.rms_norm(sides[i], norm.array, EPS)
            sides[i] = oracle_rows.rotate(normed, cos, sin)
        return sides


def as_floats(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = bits.view(BF16).astype(np.float64)
    return values
