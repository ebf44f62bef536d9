"""Hugging Face folders: config.json and (sharded) safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from manylora.engine.checkpoint.base import check_tensors, expected_tensors, to_bfloat16
from manylora.engine.checkpoint.config import read_config
from manylora.engine.checkpoint.text import read_chat_template, read_eos_token_ids, read_json, read_special_tokens, read_tokenizer
from manylora.errors import ModelError

_DTYPES = ("F32", "F16", "BF16")


class FolderCheckpoint:
    """A base model in a Hugging Face folder. float32 and float16 weights are rounded once to bfloat16."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError if the folder is not a complete checkpoint of a supported model."""
        self.source = str(folder)
        self._folder = folder
        config = read_json(folder / "config.json")
        if not config:
            hint = " (it is an adapter: serve it with --adapter)" if (folder / "adapter_config.json").is_file() else ""
            raise ModelError(f"{folder}: no config.json, so this is not a Hugging Face model folder{hint}")
        self.shape = read_config(config, self.source)
        self._files: dict[str, Any] = {}
        found: dict[str, tuple[int, ...]] = {}
        for path in _weight_files(folder):
            self._open(path, found)
        ignored = [name for name in found if name.endswith(".rotary_emb.inv_freq")]
        if self.shape.tied_embeddings and "lm_head.weight" in found:
            self._check_tied(found)
            ignored.append("lm_head.weight")
        check_tensors(self.source, found, self.shape, ignored)
        self._names = tuple(expected_tensors(self.shape))

    def names(self) -> tuple[str, ...]:
        return self._names

    def has(self, name: str) -> bool:
        return name in self._files and name in self._names

    def tensor(self, name: str) -> NDArray[Any]:
        if not self.has(name):
            raise ModelError(f"{self.source}: there is no tensor {name}")
        return to_bfloat16(self._stored(name))

    def tokenizer(self) -> Tokenizer:
        return read_tokenizer(self._folder)

    @cached_property
    def chat_template(self) -> str | None:
        return read_chat_template(self._folder)

    @cached_property
    def special_tokens(self) -> Mapping[str, str]:
        return read_special_tokens(self._folder)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        return read_eos_token_ids(self._folder, self.tokenizer())

    def _open(self, path: Path, found: dict[str, tuple[int, ...]]) -> None:
        try:
            file: Any = safe_open(path, framework="numpy")
            for name in sorted(file.keys()):
                header = file.get_slice(name)
                if header.get_dtype() not in _DTYPES:
                    raise ModelError(f"{path}: tensor {name} is {header.get_dtype()}: only {', '.join(_DTYPES)} are supported")
                if name in found:
                    raise ModelError(f"{path}: tensor {name} is in another shard too")
                found[name] = tuple(header.get_shape())
                self._files[name] = file
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read as safetensors ({error}): fetch it again") from error

    def _stored(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._files[name].get_tensor(name)
        return values

    def _check_tied(self, found: Mapping[str, tuple[int, ...]]) -> None:
        # Some writers store the shared matrix twice. Two different ones mean that the config is wrong about tying.
        embeddings = "model.embed_tokens.weight"
        same = found.get(embeddings) == found["lm_head.weight"]
        if not same or not np.array_equal(self._stored(embeddings), self._stored("lm_head.weight")):
            raise ModelError(f"{self.source}: config.json ties the embeddings, but lm_head.weight differs from {embeddings}")


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if single.is_file():
            return [single]
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        reason = (
            f"{pickles[0]} is a pickle, which is never read: save the model as safetensors" if pickles else "no safetensors file"
        )
        raise ModelError(f"{folder}: {reason}")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{index}: has no weight_map")
    files = []
    for name in sorted(set(shards.values())):
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index}: shard {name!r} is not a plain file name")
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: shard {name} is missing: the checkpoint is incomplete, fetch it again")
        files.append(folder / name)
    return files
