"""The forward pass of a Llama-like decoder: Llama 2/3.x, SmolLM2, Mistral, Qwen2/2.5, Qwen3 (dense).

The residual stream, norms, softmax and accumulators are float32. Activations are rounded to bfloat16 only where they enter a
product. Every buffer exists before the first step; a step allocates nothing."""

from __future__ import annotations

from dataclasses import dataclass

from manylora import kernels
from manylora.types.model import ModelShape

BASE = -1
"""The site number of a layer that no adapter changes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder block. Fused layers hold their parts side by side: query|key|value and gate|up."""

    input_norm: kernels.Matrix
    qkv: kernels.Linear
    output: kernels.Linear
    post_norm: kernels.Matrix
    gate_up: kernels.Linear
    down: kernels.Linear
    query_norm: kernels.Matrix | None
    key_norm: kernels.Matrix | None


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """Packed weights of a whole model. `cos` and `sin` are [positions, head_dim / 2]."""

    embedding: kernels.Matrix
    layers: tuple[Layer, ...]
    norm: kernels.Matrix
    head: kernels.Linear
    cos: kernels.Matrix
    sin: kernels.Matrix


class Llama:
    """Runs batches of at most `max_rows` token rows, and logits for at most `max_logits` rows at a time."""

    def __init__(
        self, shape: ModelShape, weights: LlamaWeights, runtime: kernels.Runtime, max_rows: int, max_logits: int
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._runtime = runtime
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._hidden = kernels.Matrix(max_rows, shape.hidden, "float32")
        self._normed = kernels.Matrix(max_rows, shape.hidden, "bfloat16")
        self._qkv = kernels.Matrix(max_rows, query + 2 * key, "float32")
        self._query = kernels.Matrix(max_rows, query, "bfloat16")
        self._attended = kernels.Matrix(max_rows, query, "bfloat16")
        self._activated = kernels.Matrix(max_rows, shape.intermediate, "bfloat16")
        self._last = kernels.Matrix(max_logits, shape.hidden, "float32")
        self._last_normed = kernels.Matrix(max_logits, shape.hidden, "bfloat16")
        self._logits = kernels.Matrix(max_logits, shape.vocab, "float32")
        self._no_adapters = kernels.Segments(1)

    def forward(self, batch: kernels.Batch, segments: kernels.Segments, kv: kernels.KvCache, rows: int) -> None:
        """Computes `rows` token rows of the batch, writing their keys and values to the cache pages."""
        run, shape, weights = self._runtime, self._shape, self._weights
        hidden, normed, eps = self._hidden, self._normed, self._shape.rms_eps
        kernels.embed(run, batch, weights.embedding, hidden)
        for number, layer in enumerate(weights.layers):
            site = number * 4
            kernels.rms_norm(run, rows, hidden, layer.input_norm, eps, normed)
            kernels.linear(run, rows, segments, normed, layer.qkv, site, self._qkv, False)
            kernels.rotary(
                run, batch, self._qkv, weights.cos, weights.sin, kv, number, self._query, shape.heads,
                layer.query_norm, layer.key_norm, eps,
            )  # fmt: skip
            kernels.attention(run, batch, self._query, kv, number, self._attended)
            kernels.linear(run, rows, segments, self._attended, layer.output, site + 1, hidden, True)
            kernels.rms_norm(run, rows, hidden, layer.post_norm, eps, normed)
            kernels.gated_linear(run, rows, segments, normed, layer.gate_up, site + 2, self._activated)
            kernels.linear(run, rows, segments, self._activated, layer.down, site + 3, hidden, True)

    def logits(self, batch: kernels.Batch, count: int) -> kernels.Matrix:
        """Float32 logits [count, vocab] of the rows that `batch.gather_rows` names. Valid until the next call."""
        run, weights = self._runtime, self._weights
        kernels.gather(run, batch, count, self._hidden, self._last)
        kernels.rms_norm(run, count, self._last, weights.norm, self._shape.rms_eps, self._last_normed)
        self._no_adapters.reset(count)
        kernels.linear(run, count, self._no_adapters, self._last_normed, weights.head, BASE, self._logits, False)
        return self._logits
