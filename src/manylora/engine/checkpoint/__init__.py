"""Base-model checkpoints: Hugging Face folders and GGUF files behind one contract."""

from manylora.engine.checkpoint.base import BFLOAT16, Checkpoint, expected_tensors
from manylora.engine.checkpoint.merged import MergedCheckpoint, merged_tensor
from manylora.engine.checkpoint.open import open_checkpoint
from manylora.engine.checkpoint.write import write_hf_folder

__all__ = [
    "BFLOAT16",
    "Checkpoint",
    "MergedCheckpoint",
    "expected_tensors",
    "merged_tensor",
    "open_checkpoint",
    "write_hf_folder",
]
