"""Rotary position embeddings: the tables of cosines and sines, numerically those of transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manylora.types.model import ModelShape, RopeScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> NDArray[np.float32]:
    """float32 [head_dim/2]: the angle per position of each rotated pair (RoFormer, arXiv:2104.09864; 'llama3' is the
    wavelength-dependent scaling of the Llama 3.1 release)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain: NDArray[np.float32] = np.float32(1.0) / np.power(np.float32(theta), exponents, dtype=np.float32)
    factor = np.float32(scaling.factor)
    if scaling.kind == "none":
        return plain
    slowed: NDArray[np.float32] = plain / factor
    if scaling.kind == "linear":
        return slowed
    wavelengths = np.float32(2 * math.pi) / plain
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    context = np.float32(scaling.original_max_position)
    smooth = (context / wavelengths - low) / (high - low)
    blended = (np.float32(1) - smooth) * plain / factor + smooth * plain
    kept_or_blended = np.where(wavelengths < context / high, plain, blended)
    return np.where(wavelengths > context / low, slowed, kept_or_blended).astype(np.float32)


def rope_tables(shape: ModelShape, positions: Sequence[int] | NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(cos, sin), each float32 [positions, head_dim/2], for absolute `positions`. Angles are float32 products, as in
    transformers, so that long contexts turn by the same rounded angles the model was trained with."""
    frequencies = inverse_frequencies(shape.head_dim, shape.rope_theta, shape.rope_scaling)
    angles = np.asarray(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles), np.sin(angles)
