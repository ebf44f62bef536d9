"""An adapter in memory, and the hash that is its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manylora.types.adapter import AdapterVersion
from manylora.types.model import PROJECTIONS, module_name

_FORMAT = b"manylora-adapter-1\n"
"""Changes whenever the canonical form does, so that hashes of different forms can never be equal."""


@dataclass(frozen=True, slots=True)
class LowRankPair:
    """What an adapter adds to one linear layer: y += scale * B (A x)."""

    layer: int
    projection: str
    rank: int
    scale: float
    """alpha/rank, or alpha/sqrt(rank) for rsLoRA."""
    a: NDArray[Any]
    """bfloat16 [rank, depth in], contiguous."""
    b: NDArray[Any]
    """bfloat16 [columns out, rank], contiguous."""


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A checked adapter. `pairs` is keyed by (layer, projection), in layer order, then PROJECTIONS order."""

    version: AdapterVersion
    pairs: Mapping[tuple[int, str], LowRankPair]

    def delta(self, layer: int, projection: str) -> NDArray[np.float32]:
        """scale * B A as float32 [columns out, depth in]. KeyError where the adapter does not act."""
        pair = self.pairs[layer, projection]
        product: NDArray[np.float32] = pair.b.astype(np.float32) @ pair.a.astype(np.float32)
        product *= np.float32(pair.scale)
        return product


def in_canonical_order(pairs: Iterable[LowRankPair]) -> dict[tuple[int, str], LowRankPair]:
    """`pairs` by (layer, projection), layers ascending, projections as in PROJECTIONS."""
    ordered = sorted(pairs, key=lambda pair: (pair.layer, PROJECTIONS.index(pair.projection)))
    return {(pair.layer, pair.projection): pair for pair in ordered}


def content_hash(pairs: Mapping[tuple[int, str], LowRankPair]) -> str:
    """SHA-256 (hex) of the canonical form: what the adapter computes, nothing of how its files spell it.

    The form is a format line; then, for each module in canonical order, one line `name rank scale columns depth` (scale as
    hexadecimal float64); then for each module in the same order the bytes of A and of B, row-major little-endian bfloat16. So key
    order, file layout, number formats, patterns against plain ranks, unused config keys, and wider dtypes that round to the same
    bfloat16 values do not change it; the base model's name is not part of it."""
    digest = hashlib.sha256(_FORMAT)
    for pair in pairs.values():
        name = module_name(pair.layer, pair.projection)
        line = f"{name} {pair.rank} {float(pair.scale).hex()} {pair.b.shape[0]} {pair.a.shape[1]}\n"
        digest.update(line.encode())
    for pair in pairs.values():
        for matrix in (pair.a, pair.b):
            digest.update(np.ascontiguousarray(matrix).view(np.uint16).astype("<u2", copy=False).data)
    return digest.hexdigest()
