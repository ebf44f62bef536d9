"""What an operator may say about the HTTP server. Defaults are written here once; the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manylora.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ServerConfig:
    """Everything the HTTP layer can be told. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_names: tuple[str, ...] = ()
    """Names of the base model; empty means the name of its folder."""
    allow_runtime_adapters: bool = False
    """Whether POST /v1/load_lora_adapter and /v1/unload_lora_adapter exist."""
    adapter_roots: tuple[Path, ...] = ()
    """Folders below which adapters may be loaded at run time."""
    max_body_bytes: int = 4 << 20
    """Of one request: several times what the longest contexts need, since parsing it holds up the other requests."""
    max_sequences: int = 1024
    """Prompts times `n` of one HTTP request, at most."""
    shutdown_seconds: float = 3.0
    """How long a stop waits for answers under way."""
    access_log: bool = False
    log_level: str = "info"
    log_json: bool = False
    """One JSON object per line in place of text."""

    def __post_init__(self) -> None:
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log level {self.log_level!r} is none of {', '.join(LOG_LEVELS)}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not between 0 and 65535")
        if self.max_body_bytes < 1:
            raise ConfigError(f"the largest body must have at least 1 byte, not {self.max_body_bytes}")
        if self.adapter_roots and not self.allow_runtime_adapters:
            raise ConfigError("--adapter-root does nothing without --allow-runtime-adapters: give both, or neither")
        if self.allow_runtime_adapters and not self.adapter_roots:
            raise ConfigError("--allow-runtime-adapters needs at least one --adapter-root to load from")
        for root in self.adapter_roots:
            if not root.is_dir():
                raise ConfigError(f"adapter root {root} is not a folder")
