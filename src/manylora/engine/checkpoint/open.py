"""Opens whatever is at a path as a Checkpoint."""

from __future__ import annotations

from pathlib import Path

from manylora.engine.checkpoint.base import Checkpoint
from manylora.engine.checkpoint.folder import FolderCheckpoint
from manylora.engine.checkpoint.gguf_file import GgufCheckpoint
from manylora.errors import ModelError


def open_checkpoint(path: Path | str) -> Checkpoint:
    """The checkpoint at `path`: a Hugging Face folder or a GGUF file. Raises ModelError, saying what is wrong."""
    path = Path(path)
    if path.is_dir():
        return FolderCheckpoint(path)
    if not path.exists():
        raise ModelError(f"{path}: no such model: give a Hugging Face folder or a .gguf file on this machine")
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    raise ModelError(f"{path}: neither a Hugging Face folder nor a .gguf file")
