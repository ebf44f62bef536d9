"""The forward pass of a Llama-like decoder: Llama 2/3.x, SmolLM2, Mistral, Qwen2/2.5, Qwen3 (dense).

The residual stream, norms, softmax and accumulators are float32. Activations are rounded to bfloat16 only where they enter a
product. Every buffer exists before the first step; a step allocates nothing."""

from __future__ import annotations

from dataclasses import dataclass

from manylora.kernels import native
from manylora.types.model import ModelShape

BASE = -1
"""The site number of a layer that no adapter changes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder block. Fused layers hold their parts side by side: query|key|value and gate|up."""

    input_norm: native.Matrix
    qkv: native.Linear
    output: native.Linear
    post_norm: native.Matrix
    gate_up: native.Linear
    down: native.Linear
    query_norm: native.Matrix | None
    key_norm: native.Matrix | None


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """Packed weights of a whole model. `cos` and `sin` are [positions, head_dim / 2]."""

    embedding: native.Matrix
    layers: tuple[Layer, ...]
    norm: native.Matrix
    head: native.Linear
    cos: native.Matrix
    sin: native.Matrix


class Llama:
    """Runs batches of at most `max_rows` token rows, and logits for at most `max_logits` rows at a time."""

    def __init__(self, shape: ModelShape, weights: LlamaWeights, runtime: native.Runtime, max_rows: int, max_logits: int) -> None:
        self._shape = shape
        self._weights = weights
        self._runtime = runtime
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._hidden = native.Matrix(max_rows, shape.hidden, "float32")
        self._normed = native.Matrix(max_rows, shape.hidden, "bfloat16")
        self._qkv = native.Matrix(max_rows, query + 2 * key, "float32")
        self._query = native.Matrix(max_rows, query, "bfloat16")
        self._attended = native.Matrix(max_rows, query, "bfloat16")
        self._gate_up = native.Matrix(max_rows, 2 * shape.intermediate, "float32")
        self._activated = native.Matrix(max_rows, shape.intermediate, "bfloat16")
        self._last = native.Matrix(max_logits, shape.hidden, "float32")
        self._last_normed = native.Matrix(max_logits, shape.hidden, "bfloat16")
        self._logits = native.Matrix(max_logits, shape.vocab, "float32")
        self._no_adapters = native.Segments(1)

    def forward(self, batch: native.Batch, segments: native.Segments, kv: native.KvCache, rows: int) -> None:
        """Computes `rows` token rows of the batch, writing their keys and values to the cache pages."""
        run, shape, weights = self._runtime, self._shape, self._weights
        hidden, normed, eps = self._hidden, self._normed, self._shape.rms_eps
        native.embed(run, batch, weights.embedding, hidden)
        for number, layer in enumerate(weights.layers):
            site = number * 4
            native.rms_norm(run, rows, hidden, layer.input_norm, eps, normed)
            native.linear(run, rows, segments, normed, layer.qkv, site, self._qkv, False)
            native.rotary(
                run, batch, self._qkv, weights.cos, weights.sin, kv, number, self._query, shape.heads,
                layer.query_norm, layer.key_norm, eps,
            )  # fmt: skip
            native.attention(run, batch, self._query, kv, number, self._attended)
            native.linear(run, rows, segments, self._attended, layer.output, site + 1, hidden, True)
            native.rms_norm(run, rows, hidden, layer.post_norm, eps, normed)
            native.linear(run, rows, segments, normed, layer.gate_up, site + 2, self._gate_up, False)
            native.silu_multiply(run, rows, self._gate_up, self._activated)
            native.linear(run, rows, segments, self._activated, layer.down, site + 3, hidden, True)

    def logits(self, batch: native.Batch, count: int) -> native.Matrix:
        """Float32 logits [count, vocab] of the rows that `batch.gather_rows` names. Valid until the next call."""
        run, weights = self._runtime, self._weights
        native.gather(run, batch, count, self._hidden, self._last)
        native.rms_norm(run, count, self._last, weights.norm, self._shape.rms_eps, self._last_normed)
        self._no_adapters.reset(count)
        native.linear(run, count, self._no_adapters, self._last_normed, weights.head, BASE, self._logits, False)
        return self._logits
