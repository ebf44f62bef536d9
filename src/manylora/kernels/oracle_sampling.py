"""What sampling must compute, in numpy float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


def normalizer(logits: Floats) -> float:
    """Log of the sum of e^logit of one row."""
    wide = logits.astype(np.float64)
    return float(wide.max() + np.log(np.exp(wide - wide.max()).sum()))


def most_likely_first(logits: Floats) -> NDArray[np.intp]:
    """Token ids by descending logit, ties by ascending id."""
    return np.argsort(-logits.astype(np.float64), kind="stable")


def distribution(logits: Floats, temperature: float, top_k: int, top_p: float, min_p: float) -> Doubles:
    """Probabilities [vocabulary] after temperature, then min_p, top_k and top_p, each on what is left by the one before."""
    wide = logits.astype(np.float64)
    weights = np.exp((wide - wide.max()) / temperature)
    weights[weights < min_p] = 0.0
    order = most_likely_first(logits)
    if 0 < top_k < len(order):
        weights[order[top_k:]] = 0.0
    if top_p < 1.0:
        cumulative = np.cumsum(weights[order])
        enough = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1
        weights[order[enough:]] = 0.0
    probabilities: Doubles = weights / weights.sum()
    return probabilities
