"""What the int8 kernels must compute, to the bit: the same float32 operations in numpy, and exact integer sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manylora.kernels.oracle import Floats

Singles = NDArray[np.float32]

ROTATION = 64
LARGEST = 127
SMALLEST_ROW = 2.0**-120


def padded(depth: int) -> int:
    """The depth as it is stored."""
    return -(-depth // ROTATION) * ROTATION


def rotate(rows: Floats) -> Singles:
    """Rows [n, depth], padded with zeros to [n, padded depth], every 64 elements times the Hadamard matrix of +1 and -1."""
    count, depth = rows.shape
    values = np.zeros((count, padded(depth)), np.float32)
    values[:, :depth] = rows
    for distance in (32, 16, 8, 4, 2, 1):
        pairs = values.reshape(count, -1, 2, distance)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        values = np.stack([first + second, first - second], axis=2).reshape(count, -1)
    return values


def quantize(rows: Floats) -> tuple[NDArray[np.int64], Singles]:
    """The rotated rows as integers [n, padded depth] of magnitude at most 127, and their scales [n]."""
    rotated = rotate(rows)
    largest = np.abs(rotated).max(axis=1)
    finite = np.isfinite(rotated).all(axis=1)
    with np.errstate(all="ignore"):
        inverse = np.where(finite & (largest >= SMALLEST_ROW), np.float32(LARGEST) / largest, np.float32(0))[:, None]
        scaled = np.where(inverse > 0, rotated * inverse, np.float32(0))
        scales = np.where(finite, np.where(inverse[:, 0] > 0, largest / np.float32(LARGEST), np.float32(0)), np.float32(np.nan))
    return np.rint(scaled).astype(np.int64), scales.astype(np.float32)


def product(x: Floats, weight: Floats) -> Singles:
    """x [rows, depth] times weight [columns, depth] transposed, both rounded: float(sum) * row scale * column scale."""
    q, row_scales = quantize(x)
    w, column_scales = quantize(weight)
    sums = (q @ w.T).astype(np.float32)
    return sums * row_scales[:, None] * (column_scales / np.float32(ROTATION))[None, :]
