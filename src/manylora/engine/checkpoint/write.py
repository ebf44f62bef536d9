"""Writes any Checkpoint as a Hugging Face folder that transformers and PEFT load."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from manylora.engine.checkpoint.base import Checkpoint, expected_tensors
from manylora.engine.checkpoint.config import config_json
from manylora.errors import ConfigError

Progress = Callable[[str, int, int], None]
"""Called as (tensor name, tensors done, tensors in all) before each tensor is written."""


def write_hf_folder(checkpoint: Checkpoint, out: Path, progress: Progress | None = None) -> None:
    """Writes config.json, generation_config.json, model.safetensors (bfloat16), tokenizer.json and tokenizer_config.json.

    `out` must not exist or be empty; it appears only when complete. Raises ConfigError if it holds anything, ModelError if a
    tensor cannot be read. Memory: one tensor at a time."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not empty: name a new folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:
        draft = Path(made) / out.name
        draft.mkdir()
        checkpoint.tokenizer().save(str(draft / "tokenizer.json"))
        _write_json(draft / "config.json", config_json(checkpoint))
        _write_json(draft / "generation_config.json", _generation_config(checkpoint))
        _write_json(draft / "tokenizer_config.json", _tokenizer_config(checkpoint))
        # Last, since it takes longest: what can fail quickly has failed by now.
        with open(draft / "model.safetensors", "wb") as file:
            _write_weights(checkpoint, file, progress)
        if out.exists():
            out.rmdir()
        os.replace(draft, out)


def _write_weights(checkpoint: Checkpoint, file: BinaryIO, progress: Progress | None) -> None:
    """The safetensors format (8-byte little-endian header length, JSON header, tensors), streamed."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    dimensions = expected_tensors(checkpoint.shape)
    offset = 0
    for name in checkpoint.names():
        size = 2
        for n in dimensions[name]:
            size *= n
        header[name] = {"dtype": "BF16", "shape": list(dimensions[name]), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for done, name in enumerate(checkpoint.names()):
        if progress is not None:
            progress(name, done, len(checkpoint.names()))
        file.write(checkpoint.tensor(name).tobytes())


def _generation_config(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.tokenizer()
    config: dict[str, Any] = {"_from_model_config": True}
    for key in ("bos", "pad"):
        token = checkpoint.special_tokens.get(f"{key}_token")
        if token is not None:
            config[f"{key}_token_id"] = tokenizer.token_to_id(token)
    ends = checkpoint.eos_token_ids
    if ends:
        config["eos_token_id"] = ends[0] if len(ends) == 1 else list(ends)
    return config


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": checkpoint.shape.max_position,
        **checkpoint.special_tokens,
    }
    if checkpoint.chat_template is not None:
        config["chat_template"] = checkpoint.chat_template
    return config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
