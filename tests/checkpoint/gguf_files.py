"""GGUF files of tiny models, written by the gguf package the way llama.cpp's converter lays tensors out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedModel

Quantise = Callable[[NDArray[np.float32]], tuple[NDArray[Any], gguf.GGMLQuantizationType]]

_LEAVES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def stored_as(kind: str) -> Quantise:
    """A writer of one GGML type, through gguf's own quantiser."""
    number = gguf.GGMLQuantizationType[kind]
    return lambda values: (gguf.quants.quantize(values, number), number)


def write_gguf(
    path: Path, model: PreTrainedModel, quantise: Quantise, rope_factors: NDArray[np.float32] | None = None, **metadata: Any
) -> None:
    """Writes `model` (llama, qwen2, qwen3); matrices go through `quantise`, vectors stay float32. `metadata` adds or replaces
    keys (dots as double underscores)."""
    writer = gguf.GGUFWriter(path, model.config.model_type)
    _add_metadata(writer, model, metadata)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    _add_tensors(writer, model, quantise)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, model: PreTrainedModel, metadata: dict[str, Any]) -> None:
    config, arch = model.config, model.config.model_type
    writer.add_uint32(f"{arch}.context_length", config.max_position_embeddings)
    writer.add_uint32(f"{arch}.embedding_length", config.hidden_size)
    writer.add_uint32(f"{arch}.block_count", config.num_hidden_layers)
    writer.add_uint32(f"{arch}.feed_forward_length", config.intermediate_size)
    writer.add_uint32(f"{arch}.attention.head_count", config.num_attention_heads)
    writer.add_uint32(f"{arch}.attention.head_count_kv", config.num_key_value_heads)
    writer.add_uint32(f"{arch}.attention.key_length", head_dim(model))
    writer.add_uint32(f"{arch}.rope.dimension_count", head_dim(model))
    writer.add_uint32(f"{arch}.vocab_size", config.vocab_size)
    writer.add_float32(f"{arch}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    for key, value in metadata.items():
        writer.add_key_value(key.replace("__", "."), value, _value_type(value))


def _add_tensors(writer: gguf.GGUFWriter, model: PreTrainedModel, quantise: Quantise) -> None:
    config, arch = model.config, model.config.model_type
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = interleaved(values, heads)
        data, kind = (values, gguf.GGMLQuantizationType.F32) if values.ndim == 1 else quantise(np.ascontiguousarray(values))
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)


def head_dim(model: PreTrainedModel) -> int:
    """Elements of one head."""
    return getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads


def interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's order of query and key rows: (i, i + head_dim/2) become neighbours."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def gguf_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`."""
    module, leaf = name.rsplit(".", 1)
    if module in _TOP:
        return f"{_TOP[module]}.{leaf}"
    parts = module.split(".")
    return f"blk.{parts[2]}.{_LEAVES[parts[-1]]}.{leaf}"


def _value_type(value: Any) -> gguf.GGUFValueType:
    return (
        gguf.GGUFValueType.get_type(value) if not isinstance(value, int) or isinstance(value, bool) else gguf.GGUFValueType.UINT32
    )


def vocabulary_metadata(tokenizer: Tokenizer, pre: str, **extra: Any) -> dict[str, Any]:
    """The `tokenizer.ggml.*` keys of a byte-level BPE tokenizer."""
    content = json.loads(tokenizer.to_str())
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    special = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3 if token in special else 1 for token in tokens],
        "merges": merges,
        **extra,
    }
    return {f"tokenizer__ggml__{key}": value for key, value in keys.items()}
