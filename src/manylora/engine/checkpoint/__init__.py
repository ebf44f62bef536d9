"""Base-model checkpoints: Hugging Face folders and GGUF files behind one contract."""

from manylora.engine.checkpoint.base import BFLOAT16, Checkpoint, expected_tensors, module_name
from manylora.engine.checkpoint.open import open_checkpoint
from manylora.engine.checkpoint.write import write_hf_folder

__all__ = ["BFLOAT16", "Checkpoint", "expected_tensors", "module_name", "open_checkpoint", "write_hf_folder"]
