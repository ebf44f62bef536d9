"""What the row kernels and attention must compute, in numpy float64; `oracle.py` has the linear layers.

Inputs are the exact values that a kernel reads. Nothing is rounded here, so a kernel's distance from these is its own rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


def rms_norm(x: Floats, weight: Floats, eps: float) -> Doubles:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 2019)."""
    wide = x.astype(np.float64)
    normed: Doubles = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps) * weight.astype(np.float64)
    return normed


def silu_multiply(gate_up: Floats) -> Doubles:
    """silu(gate) * up for [rows, 2 * columns], the gate first."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    with np.errstate(over="ignore"):
        return gate / (1.0 + np.exp(-gate)) * up


def rotate(x: Floats, cos: Floats, sin: Floats) -> Doubles:
    """Half-split rotary embedding of x [..., head_dim] by cos and sin [..., head_dim / 2] (Su et al., 2021)."""
    low, high = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attention(q: Floats, k: Floats, v: Floats, positions: NDArray[np.integer]) -> tuple[Doubles, Doubles]:
    """Causal attention of one sequence, and the mean of |v| under the same weights (the scale of its rounding errors).

    q [rows, heads, head_dim] at `positions` [rows]; k and v [tokens, kv_heads, head_dim] from position 0. Both results are
    [rows, heads, head_dim].
    """
    group = q.shape[1] // k.shape[1]
    queries = q.astype(np.float64).transpose(1, 0, 2)
    keys, values = (np.repeat(side.astype(np.float64).transpose(1, 0, 2), group, axis=0) for side in (k, v))
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(q.shape[2])
    scores[:, np.arange(k.shape[0])[None, :] > positions[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ values).transpose(1, 0, 2), (weights @ np.abs(values)).transpose(1, 0, 2)
