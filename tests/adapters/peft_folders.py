"""Adapter folders as PEFT writes them, with random weights in place of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from manylora.engine.checkpoint.config import read_config
from manylora.types.model import ModelShape
from tests.checkpoint.tiny_models import tiny_model

Tensors = dict[str, torch.Tensor]


def shape_of(family: str = "llama") -> ModelShape:
    """The shape of a tiny model."""
    return read_config(tiny_model(family).config.to_dict(), "test")


def trained(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.bfloat16, **config: Any) -> PeftModel:
    """A PEFT model whose A and B are random, as after training."""
    options = {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(tiny_model(family, dtype), LoraConfig(**options), autocast_adapter_dtype=False)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def save_adapter(folder: Path, family: str = "llama", **options: Any) -> PeftModel:
    """Saves a random adapter for a tiny model of `family`; `options` as for `trained`."""
    model = trained(family, **options)
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Replaces keys of adapter_config.json; ... removes one."""
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_tensors(folder: Path, edit: Callable[[Tensors], Tensors | None]) -> None:
    """Rewrites adapter_model.safetensors with what `edit` makes of its tensors (changed in place or returned)."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(edit(tensors) or tensors, path)


def bits(array: NDArray[Any]) -> NDArray[np.uint16]:
    """bfloat16 as comparable integers."""
    return array.view(np.uint16)
