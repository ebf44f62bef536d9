"""A base model with random weights, in the shape of Llama 3.2 1B: for speed, not for sense.

    python -m benchmarks.random_model TOKENIZER_FOLDER OUT_FOLDER

The tokenizer is that of another model, with made-up words up to the size of the vocabulary, so that every token has a text."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from manylora.engine.checkpoint.base import expected_tensors
from manylora.engine.checkpoint.config import read_config

LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def write_model(folder: Path, config: dict[str, Any], tokenizer_folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder for `config`; norms are one, everything else is normal with a deviation of 0.02."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_tensors(read_config(config, str(folder))).items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, ml_dtypes.bfloat16)
        else:
            values = random.standard_normal(shape, np.float32)
            values *= 0.02
            tensors[name] = values.astype(ml_dtypes.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(tokenizer_folder / "tokenizer_config.json", folder)
    tokenizer = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words |= {f"Ġword{token}": token for token in range(len(words), config["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")  # last: the folder is complete with it
    return folder


if __name__ == "__main__":
    write_model(Path(sys.argv[2]), LLAMA_1B, Path(sys.argv[1]))
