"""Adapter images: an adapter's tensors packed for the kernels and cut into extents, in a file the engine copies from.

The loader process writes images; the engine only copies bytes. A piece (one A or B matrix) never crosses an extent border,
so that the engine may put the extents anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manylora import kernels
from manylora.adapters import LoadedAdapter
from manylora.errors import AdapterRejected
from manylora.policy.kv_blocks import BLOCK_TOKENS
from manylora.types.adapter import AdapterVersion
from manylora.types.model import PROJECTIONS, ModelShape

SITES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""The fused linear layers of a decoder block. A site's number is layer * 4 + its place here; a part is a place within it."""

ALIGNMENT = 64
WIDEST_RANK = 128
"""Any projection fits an extent up to this rank."""


def site_of(projection: str) -> tuple[int, int]:
    """(place in SITES, part) of one of the seven projections."""
    for place, parts in enumerate(SITES):
        if projection in parts:
            return place, parts.index(projection)
    raise ValueError(f"{projection} is none of {', '.join(PROJECTIONS)}")


def part_columns(shape: ModelShape, place: int) -> list[int]:
    """Output columns of each part of a site."""
    return [shape.projection_shape(name)[0] for name in SITES[place]]


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """How one byte budget is cut. Blocks hold the keys and values of BLOCK_TOKENS tokens over all layers."""

    block_bytes: int
    blocks_per_extent: int
    extents: int

    @property
    def extent_bytes(self) -> int:
        """Bytes of one extent."""
        return self.block_bytes * self.blocks_per_extent

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit while no adapter is resident."""
        return self.extents * self.blocks_per_extent * BLOCK_TOKENS


def arena_layout(shape: ModelShape, memory_bytes: int) -> ArenaLayout:
    """Cuts `memory_bytes` for a model: the smallest extents, of at least 1 MiB, that hold any piece of rank WIDEST_RANK."""
    block = kernels.kv_block_bytes(shape.layers, shape.kv_heads, shape.head_dim)
    widest = max(max(shape.projection_shape(name)) for name in PROJECTIONS)
    per_extent = -(-max(1 << 20, 2 * WIDEST_RANK * widest + 4096) // block)
    return ArenaLayout(block, per_extent, memory_bytes // (block * per_extent))


@dataclass(frozen=True, slots=True)
class Piece:
    """Where the two matrices of one adapted projection lie: extent number within the image and byte offset in it."""

    site: int
    part: int
    rank: int
    scale: float
    a_extent: int
    a_offset: int
    b_extent: int
    b_offset: int


@dataclass(frozen=True, slots=True)
class AdapterImage:
    """An adapter ready to be copied into an arena cut as `extent_bytes` says."""

    version: AdapterVersion
    path: Path
    extents: int
    extent_bytes: int
    pieces: list[Piece]


class _Cursor:
    """Hands out aligned places in a growing run of extents."""

    def __init__(self, extent_bytes: int) -> None:
        self.extent_bytes = extent_bytes
        self.extent = 0
        self.offset = 0

    def place(self, size: int) -> tuple[int, int]:
        if size > self.extent_bytes:
            raise AdapterRejected(
                f"one of its matrices takes {size} bytes and the limit is {self.extent_bytes}: use a lower rank"
            )
        if self.offset + size > self.extent_bytes:
            self.extent, self.offset = self.extent + 1, 0
        start = self.offset
        self.offset += -(-size // ALIGNMENT) * ALIGNMENT
        return self.extent, start


def write_image(adapter: LoadedAdapter, shape: ModelShape, extent_bytes: int, path: Path) -> AdapterImage:
    """Packs every matrix of the adapter into a new file at `path`. Raises AdapterRejected when a matrix exceeds an extent."""
    cursor = _Cursor(extent_bytes)
    pieces: list[Piece] = []
    packed: list[tuple[int, np.ndarray]] = []
    for pair in adapter.pairs.values():
        place, part = site_of(pair.projection)
        columns, depth = shape.projection_shape(pair.projection)
        width = kernels.panel_width(part_columns(shape, place))
        a = np.empty(kernels.lora_a_bytes(pair.rank, depth), np.uint8)
        kernels.pack_lora_a(pair.a.view(np.uint16), a)
        b = np.empty(kernels.lora_b_bytes(pair.rank, columns, width), np.uint8)
        kernels.pack_lora_b(pair.b.view(np.uint16), width, b)
        a_place, b_place = cursor.place(a.size), cursor.place(b.size)
        packed += [(a_place[0] * extent_bytes + a_place[1], a), (b_place[0] * extent_bytes + b_place[1], b)]
        pieces.append(Piece(pair.layer * len(SITES) + place, part, pair.rank, pair.scale, *a_place, *b_place))
    with path.open("wb") as file:
        for offset, array in packed:
            file.seek(offset)
            file.write(array.data)
        file.truncate((cursor.extent + 1) * extent_bytes)
    return AdapterImage(adapter.version, path, cursor.extent + 1, extent_bytes, pieces)
