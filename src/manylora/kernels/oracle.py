"""What the kernels must compute, in numpy float64: the reference that tests hold every instruction set against.

Only what the kernels define as rounding is rounded here: the low-rank activations, once, to bfloat16. Everything else is exact to
float64, so a kernel's distance from it is its own fp32 error; `linear_error_bound` says how large that may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

FLOAT32_ROUNDOFF = 2.0**-24
BFLOAT16_ULP = 2.0**-7  # relative, at its largest


@dataclass(frozen=True)
class LoraTerm:
    """One adapter's share in one part of a linear layer, for rows [start, stop).

    a [rank, depth], b [columns of the part, rank]; column_scale and bias [columns of the part] or None.
    """

    start: int
    stop: int
    part: int
    a: Floats
    b: Floats
    scale: float
    column_scale: Floats | None = None
    bias: Floats | None = None


def round_bfloat16(values: Doubles) -> Doubles:
    """To float32, then to bfloat16, nearest even, as float64."""
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def _shifts(parts: Sequence[Doubles], biases: Sequence[Floats | None], terms: Sequence[LoraTerm]) -> list[Doubles]:
    """The bias of every output: the layer's, or in an adapter's rows the adapter's where it has one."""
    shifts = [np.zeros_like(part) for part in parts]
    for shift, bias in zip(shifts, biases, strict=True):
        if bias is not None:
            shift[:] = bias
    for term in terms:
        if term.bias is not None:
            shifts[term.part][term.start : term.stop] = term.bias
    return shifts


def linear(x: Floats, weights: Sequence[Floats], biases: Sequence[Floats | None], terms: Sequence[LoraTerm]) -> Doubles:
    """[column scale *] (x W^T + lora) + bias of x [rows, depth] and weights [columns_i, depth]: [rows, sum of columns_i]."""
    rows = x.astype(np.float64)
    parts = [rows @ weight.astype(np.float64).T for weight in weights]
    for term in terms:
        own = slice(term.start, term.stop)
        low_rank = round_bfloat16((rows[own] @ term.a.astype(np.float64).T) * np.float64(np.float32(term.scale)))
        parts[term.part][own] += low_rank @ term.b.astype(np.float64).T
        if term.column_scale is not None:
            parts[term.part][own] *= term.column_scale.astype(np.float64)
    return np.concatenate([part + shift for part, shift in zip(parts, _shifts(parts, biases, terms), strict=True)], axis=1)


def linear_error_bound(
    x: Floats, weights: Sequence[Floats], biases: Sequence[Floats | None], terms: Sequence[LoraTerm]
) -> Doubles:
    """How far a kernel may be from `linear`, element by element.

    A chain of n fp32 additions errs by at most n roundoffs of the sum of magnitudes (Higham, Accuracy and Stability of Numerical
    Algorithms, 3.1). The kernel's low-rank activations may round to the other bfloat16 neighbour than the oracle's: one ulp each.
    """
    rows = np.abs(x.astype(np.float64))
    depth = x.shape[1]
    sums = [rows @ np.abs(weight.astype(np.float64)).T for weight in weights]
    errors = [part * (depth + 4) * FLOAT32_ROUNDOFF for part in sums]
    for term in terms:
        own = slice(term.start, term.stop)
        b = np.abs(term.b.astype(np.float64)).T
        magnitude = rows[own] @ np.abs(term.a.astype(np.float64)).T * abs(term.scale)
        flip = np.abs(x[own].astype(np.float64) @ term.a.astype(np.float64).T * term.scale) * BFLOAT16_ULP
        shrink_error = magnitude * (depth + 2) * FLOAT32_ROUNDOFF
        sums[term.part][own] += magnitude @ b
        errors[term.part][own] = sums[term.part][own] * (depth + term.a.shape[0] + 4) * FLOAT32_ROUNDOFF
        errors[term.part][own] += (flip + 2 * shrink_error) @ b
        if term.column_scale is not None:
            sums[term.part][own] *= np.abs(term.column_scale.astype(np.float64))
            errors[term.part][own] *= np.abs(term.column_scale.astype(np.float64))
    shifts = _shifts(sums, biases, terms)
    last = [(part + np.abs(shift)) * 2 * FLOAT32_ROUNDOFF for part, shift in zip(sums, shifts, strict=True)]
    return 1.01 * np.concatenate([error + roundings for error, roundings in zip(errors, last, strict=True)], axis=1) + 1e-30
