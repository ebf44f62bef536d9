"""Options of the native engine. Defaults are written here and nowhere else; the command line reads them off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine process runs. None means: derived from the model or the machine."""

    model: Path
    """A Hugging Face folder or a GGUF file."""
    merge: Path | None = None
    """An adapter folder to merge into the base weights at start."""
    threads: int | None = None
    """Threads of the kernels; None follows the CPUs this process may use."""
    memory_bytes: int = 2 * GIB
    """One budget for the KV blocks and the resident adapters together."""
    max_model_len: int | None = None
    """Prompt plus new tokens of one request; None is the model's own limit, as far as memory allows."""
    max_num_seqs: int = 64
    """Requests running at once."""
    max_num_batched_tokens: int = 512
    """Token rows of one step: the size of a prefill chunk."""
    max_waiting: int = 4096
    """Requests queued before new ones are refused."""
    max_wait_seconds: float = 2.0
    """How long a request may be passed by smaller ones before all freed memory is promised to it."""
    prefix_cache: bool = True
    """Whether prompts reuse the KV blocks of earlier ones of the same adapter version."""
