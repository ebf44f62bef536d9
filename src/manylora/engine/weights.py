"""Packs a checkpoint's tensors for the kernels, one layer at a time, so that the unpacked model is never in memory whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manylora import kernels
from manylora.engine.checkpoint import Checkpoint
from manylora.engine.models.llama import Layer, LlamaWeights
from manylora.engine.rotary import rope_tables

OnProgress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)"""


def pack_weights(
    checkpoint: Checkpoint, runtime: kernels.Runtime, positions: int, quantization: str, on_progress: OnProgress
) -> LlamaWeights:
    """Every weight of the model, packed. `positions` bounds the rotary tables; `quantization` is EngineConfig's. Norms and the
    embedding, which enter no product, are never rounded."""
    shape = checkpoint.shape
    layers = []
    for number in range(shape.layers):
        on_progress("packing weights", number, shape.layers + 1)
        layers.append(_pack_layer(checkpoint, runtime, number, quantization))
    on_progress("packing weights", shape.layers, shape.layers + 1)
    cos, sin = rope_tables(shape, np.arange(positions))
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    head = embedding if shape.tied_embeddings else checkpoint.tensor("lm_head.weight")
    weights = LlamaWeights(
        embedding=_matrix(embedding.view(np.uint16), "bfloat16"),
        layers=tuple(layers),
        norm=_vector(checkpoint.tensor("model.norm.weight")),
        head=kernels.Linear(runtime, [head.view(np.uint16)], [None], quantization),
        cos=_matrix(cos, "float32"),
        sin=_matrix(sin, "float32"),
    )
    on_progress("packing weights", shape.layers + 1, shape.layers + 1)
    return weights


def _pack_layer(checkpoint: Checkpoint, runtime: kernels.Runtime, number: int, quantization: str) -> Layer:
    shape = checkpoint.shape
    prefix = f"model.layers.{number}."

    def linear(block: str, names: tuple[str, ...], biased: bool) -> kernels.Linear:
        paths = [f"{prefix}{block}.{name}" for name in names]
        parts = [np.ascontiguousarray(checkpoint.tensor(f"{path}.weight")).view(np.uint16) for path in paths]
        biases = [checkpoint.tensor(f"{path}.bias").astype(np.float32) if biased else None for path in paths]
        return kernels.Linear(runtime, parts, biases, quantization)

    def norm(name: str) -> kernels.Matrix:
        return _vector(checkpoint.tensor(f"{prefix}{name}.weight"))

    return Layer(
        input_norm=norm("input_layernorm"),
        qkv=linear("self_attn", ("q_proj", "k_proj", "v_proj"), shape.qkv_bias),
        output=linear("self_attn", ("o_proj",), shape.output_bias),
        post_norm=norm("post_attention_layernorm"),
        gate_up=linear("mlp", ("gate_proj", "up_proj"), shape.mlp_bias),
        down=linear("mlp", ("down_proj",), shape.mlp_bias),
        query_norm=norm("self_attn.q_norm") if shape.qk_norm else None,
        key_norm=norm("self_attn.k_norm") if shape.qk_norm else None,
    )


def _matrix(array: np.ndarray, dtype: str) -> kernels.Matrix:
    rows, columns = array.shape
    matrix = kernels.Matrix(rows, columns, dtype)
    matrix.array[:] = array
    return matrix


def _vector(tensor: np.ndarray) -> kernels.Matrix:
    return _matrix(tensor.astype(np.float32)[None, :], "float32")
