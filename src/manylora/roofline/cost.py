"""Bytes and operations that a step cannot do without, and the least time they take.

Counted: every weight once a step (those of lm_head only if a row is sampled), every distinct adapter's A and B once a step at
true rank, keys and values of the context read once per sequence and of new tokens written once; two operations for each weight
and row, and for each key and value element that a row attends to. Not counted, because it is small beside these or stays in
caches: activations, logits, norms, tables, softmax, sampling, and everything outside of the kernels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manylora.roofline.machine import Machine
from manylora.types.model import PROJECTIONS, ModelShape

BF16_BYTES = 2
COLUMN_BYTES = 8
"""Of one column of an int8 weight, beside its elements: its float32 scale and the int32 that its sums start from."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What is moved and computed."""

    bytes: float = 0.0
    bf16_operations: float = 0.0
    int8_operations: float = 0.0

    def seconds(self, machine: Machine) -> float:
        """The roofline (Williams, Waterman and Patterson, CACM 2009): memory and arithmetic overlap perfectly, the slower one
        counts. Arithmetic of both kinds shares the cores, so their times add."""
        arithmetic = self.bf16_operations / machine.bf16_peak.best + self.int8_operations / machine.int8_peak.best
        return max(self.bytes / machine.bandwidth.best, arithmetic)


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step is asked for. Numbers may be fractions: a mean step of a load."""

    rows: float
    """Tokens that pass the layers."""
    samples: float
    """Rows that pass lm_head."""
    context: float
    """Known tokens whose keys and values are read, each sequence's once."""
    attended: float
    """Positions attended to, summed over the rows, each row's own included."""
    adapters: float = 0.0
    """Distinct ones."""
    adapter_bytes: float = 0.0
    """Of one of them: A and B at true rank, bfloat16."""
    adapted_rows: float = 0.0


class ModelCosts:
    """The costs of one model under one quantisation, "none" or "int8"."""

    def __init__(self, shape: ModelShape, quantization: str = "none") -> None:
        self.shape = shape
        self.quantization = quantization
        sizes = [shape.projection_shape(name) for name in PROJECTIONS]
        self.layer_weights = shape.layers * sum(columns * depth for columns, depth in sizes)
        self.head_weights = shape.vocab * shape.hidden
        self.layer_bytes = self._stored(self.layer_weights, shape.layers * sum(columns for columns, _ in sizes))
        self.head_bytes = self._stored(self.head_weights, shape.vocab)
        self.token_bytes = 2 * shape.kv_heads * shape.head_dim * BF16_BYTES * shape.layers
        """Of one token's keys and values."""

    def _stored(self, weights: int, columns: int) -> int:
        return weights + columns * COLUMN_BYTES if self.quantization == "int8" else weights * BF16_BYTES

    def step(self, load: StepLoad) -> Cost:
        """The cost of one step. An adapter's element is stored in two bytes and costs two operations a row, so one number is
        both."""
        moved: float = self.layer_bytes + (self.head_bytes if load.samples else 0)
        moved += load.adapters * load.adapter_bytes + (load.context + load.rows) * self.token_bytes
        base = 2 * (load.rows * self.layer_weights + load.samples * self.head_weights)
        attention = 4 * self.shape.heads * self.shape.head_dim * self.shape.layers * load.attended
        rest = attention + load.adapted_rows * load.adapter_bytes
        return Cost(moved, rest, base) if self.quantization == "int8" else Cost(moved, base + rest)


def adapter_bytes(shape: ModelShape, rank: int, targets: Iterable[str] = PROJECTIONS) -> int:
    """Of A [rank, depth] and B [columns, rank] in bfloat16, over all layers."""
    return shape.layers * rank * sum(sum(shape.projection_shape(name)) for name in targets) * BF16_BYTES
