"""PEFT adapter folders with random weights: for load, not for sense."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

PROJECTIONS = {
    "q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn",
    "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp",
}  # fmt: skip


def write_adapter(folder: Path, model_config: dict[str, int], rank: int, targets: list[str], seed: int) -> Path:
    """One adapter for a Llama-like `config.json`, its effect small beside the base's."""
    heads, kv = model_config["num_attention_heads"], model_config["num_key_value_heads"]
    hidden, wide = model_config["hidden_size"], model_config["intermediate_size"]
    head = model_config.get("head_dim") or hidden // heads
    query, key = heads * head, kv * head
    sizes = {
        "q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden),
        "gate_proj": (hidden, wide), "up_proj": (hidden, wide), "down_proj": (wide, hidden),
    }  # fmt: skip
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(model_config["num_hidden_layers"]):
        for name in targets:
            depth, columns = sizes[name]
            path = f"base_model.model.model.layers.{layer}.{PROJECTIONS[name]}.{name}"
            a = random.standard_normal((rank, depth), np.float32) / np.sqrt(depth)
            b = random.standard_normal((columns, rank), np.float32) * 0.02
            tensors[f"{path}.lora_A.weight"] = a.astype(ml_dtypes.bfloat16)
            tensors[f"{path}.lora_B.weight"] = b.astype(ml_dtypes.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
