"""Options of the native engine. Defaults are written here and nowhere else; the command line reads them off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manylora.errors import ConfigError

GIB = 1 << 30
QUANTIZATIONS = ("none", "int8")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine process runs. None means: derived from the model or the machine."""

    model: Path
    """A Hugging Face folder or a GGUF file."""
    merge: Path | None = None
    """An adapter folder to merge into the base weights at start."""
    quantization: str = "none"
    """How the base weights are kept: "none" is bfloat16; "int8" rounds them and the rows they meet, adapters stay bfloat16."""
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
    step_log: Path | None = None
    """A file to append one record per step to: metrics/step_log.py."""

    def __post_init__(self) -> None:
        for name in ("threads", "memory_bytes", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "max_waiting"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.quantization not in QUANTIZATIONS:
            raise ConfigError(f"quantization must be {' or '.join(QUANTIZATIONS)}, not {self.quantization}")
        if self.max_wait_seconds < 0:
            raise ConfigError(f"max_wait_seconds must not be negative: {self.max_wait_seconds}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} must be at least max_num_seqs {self.max_num_seqs}: "
                "every running request may need a row"
            )
