"""Adapters that must be refused, made from a good one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray[Any]]
Breakage = Callable[[Path], object]
"""Breaks the good copy in that folder."""

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model.model.layers"
_FIRST = f"{_PREFIX}.0.self_attn.q_proj"


def config(**changes: Any) -> Breakage:
    """Other values in adapter_config.json."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def tensors(change: Callable[[Tensors], object]) -> Breakage:
    """Other weights; `change` edits them in place, as float32."""

    def edit(folder: Path) -> None:
        loaded = {name: value.astype(np.float32) for name, value in load_file(folder / WEIGHTS).items()}
        change(loaded)
        save_file(loaded, folder / WEIGHTS)

    return edit


def _fill(part: str, value: float) -> Breakage:
    return tensors(lambda found: [found[name].fill(value) for name in found if part in name])


def _renamed(old: str, new: str) -> Breakage:
    def change(found: Tensors) -> None:
        for name in list(found):
            found[name.replace(old, new)] = found.pop(name)

    return tensors(change)


def _extra(name: str) -> Breakage:
    return tensors(lambda found: found.update({name: np.ones((4, 96), np.float32)}))


def _cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) * 2 // 3])


def _pickled(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps({"weights": [1.0]}))


def _garbled(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 4096)


def _wrong_shape(found: Tensors) -> None:
    found[f"{_FIRST}.lora_A.weight"] = np.ones((4, 95), np.float32)


BROKEN: dict[str, tuple[Breakage, str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
    "garbled weights": (_garbled, "damaged"),
    "truncated weights": (_cut, "damaged"),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "damaged"),
    "pickle": (lambda folder: _pickled(folder, "adapter_model.bin"), "pickle"),
    "pickle in disguise": (lambda folder: _pickled(folder, WEIGHTS), "damaged"),
    "garbled config": (lambda folder: (folder / "adapter_config.json").write_text("{"), "not JSON"),
    "NaN": (_fill("layers.1.self_attn.v_proj.lora_B", float("nan")), "NaN"),
    "infinity": (_fill("layers.0.mlp.up_proj.lora_A", float("inf")), "infinity"),
    "wrong shape": (tensors(_wrong_shape), "q_proj.lora_A.weight has shape [4, 95]"),
    "wrong rank": (config(r=8), "rank 8"),
    "lost tensor": (tensors(lambda found: found.pop(f"{_FIRST}.lora_B.weight")), "lora_B.weight is missing"),
    "unknown target": (config(target_modules=["c_attn"]), "matches nothing"),
    "names of another model (vllm#34186)": (_renamed("model.layers", "language_model.model.layers"), "lands on no module"),
    "names of the trainer's wrapper": (_renamed("lora_A.weight", "lora_A.default.weight"), "lands on no module"),
    "layers the base lacks": (_renamed("layers.1", "layers.7"), "base lacks"),
    "all-zero B": (_fill("lora_B", 0.0), "changes nothing"),
    "scale of zero": (config(lora_alpha=0), "changes nothing"),
    "DoRA": (config(use_dora=True), "DoRA"),
    "DoRA's tensors": (_extra(f"{_FIRST}.lora_magnitude_vector"), "DoRA"),
    "bias": (config(bias="all"), "bias"),
    "aLoRA": (config(alora_invocation_tokens=[1, 2]), "aLoRA"),
    "modules_to_save": (config(modules_to_save=["lm_head"]), "modules_to_save"),
    "lm_head": (config(target_modules=["q_proj", "lm_head"]), "lm_head"),
    "lm_head's tensors": (_extra("base_model.model.lm_head.lora_A.weight"), "lm_head"),
    "embeddings": (config(target_modules=["embed_tokens"]), "embed_tokens"),
    "PiSSA": (config(init_lora_weights="pissa"), "changes the base"),
    "OLoRA": (config(init_lora_weights="olora"), "changes the base"),
    "LoftQ": (config(init_lora_weights="loftq"), "changes the base"),
    "another method": (config(peft_type="IA3"), "IA3"),
    "an option of the future": (config(use_something_new=True), "use_something_new"),
    "oversize rank": (config(r=100_000), "over the limit of 512"),
}
"""What is wrong -> how to make it so, and what the refusal must say."""


def broken(good: Path, folder: Path, what: str) -> str:
    """Writes the good adapter, broken so, to `folder`; what the refusal must say."""
    shutil.copytree(good, folder)
    breakage, reason = BROKEN[what]
    breakage(folder)
    return reason
