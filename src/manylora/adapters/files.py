"""Opens files of an adapter folder, and nothing outside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from manylora.errors import AdapterRejected

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def read_files(folder: Path, max_config_bytes: int, max_weight_bytes: int) -> tuple[bytes, bytes]:
    """(adapter_config.json, adapter_model.safetensors) of `folder`, whole.

    Raises AdapterRejected if one is missing, too large, no regular file, or a link that leads out of the folder. Pickled weights
    are never opened. The bytes are read once, so that what is checked is what is used."""
    if not folder.is_dir():
        raise AdapterRejected(f"{folder}: no such folder: give the PEFT folder that holds {CONFIG_FILE}")
    if not (folder / WEIGHTS_FILE).exists() and not (folder / WEIGHTS_FILE).is_symlink():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise AdapterRejected(f"{folder}: {pickles[0]} is a pickle, which is never opened: save the adapter as safetensors")
    config = read_file(folder, CONFIG_FILE, max_config_bytes)
    return config, read_file(folder, WEIGHTS_FILE, max_weight_bytes)


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """One file of `folder`, whole, of at most `limit` bytes.

    Raises AdapterRejected if it is missing, larger, no regular file, or a link that leads out of the folder."""
    path = folder / name
    try:
        root, target = folder.resolve(strict=True), path.resolve(strict=True)
        if not target.is_relative_to(root):
            raise AdapterRejected(f"{path}: is a link that leads out of the folder: copy the file itself there")
        # Non-blocking, so that a pipe in place of the file cannot hang the loader.
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise AdapterRejected(f"{path}: is not a regular file")
            if status.st_size > limit:
                raise AdapterRejected(f"{path}: has {status.st_size} bytes, the limit is {limit}")
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise AdapterRejected(f"{folder}: no {name}: this is not a complete PEFT folder") from None
    except (OSError, RuntimeError) as error:
        raise AdapterRejected(f"{path}: cannot be read ({error})") from error
    if len(content) > limit:
        raise AdapterRejected(f"{path}: grew past the limit of {limit} bytes while it was read")
    return content
