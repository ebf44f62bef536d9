"""Tiny random models of every supported family, made by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "llama-tied-biased": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama3": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}),
    "llama-linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 48}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32, "tie_word_embeddings": False}),
}


def tiny_model(family: str, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """A seeded random model of one of FAMILIES; biases and norms are random too, so that a lost one shows."""
    config_class, model_class, extra = FAMILIES[family]
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(config_class(**{**SIZES, **extra}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or "norm" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name else 0.0))
    return model.to(dtype).eval()


def save_tiny(family: str, folder: Path, dtype: torch.dtype = torch.bfloat16, **options: Any) -> PreTrainedModel:
    """Saves a tiny model (without tokenizer) as transformers does; `options` go to save_pretrained."""
    model = tiny_model(family, dtype)
    model.save_pretrained(folder, **options)
    return model
