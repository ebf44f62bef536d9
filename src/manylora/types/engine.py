"""The Engine contract: what the server asks of whatever generates tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manylora.types.adapter import AdapterVersion
from manylora.types.model import ModelShape
from manylora.types.request import Request, RequestOutput


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself once it is ready."""

    shape: ModelShape
    max_model_len: int
    """Prompt plus new tokens of one request, at most."""
    kv_tokens: int
    """Tokens whose keys and values fit in memory at once."""
    capability: str
    """The instruction set of its kernels."""
    threads: int
    quantization: str = "none"
    """What base weights are kept as; "none" is bfloat16."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics and health. Counters only grow while one engine process lives."""

    running: int = 0
    waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    """Referenced by running requests."""
    kv_blocks_cached: int = 0
    """Held for reuse, unreferenced."""
    adapter_bytes: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    step_adapters: int = 0
    """Distinct adapters in the last step."""
    steps_adapters: int = 0
    """The same, summed over all steps: divided by `steps`, adapters per step."""
    step_rows: int = 0
    restarts: int = 0


class Engine(Protocol):
    """Generates tokens for many requests at once, each with its own adapter version.

    All methods belong to the event loop that called `start`. An engine that dies fails every request in flight with
    EngineDied at once, restarts itself, and brings back the adapters it had."""

    async def start(self) -> EngineInfo:
        """Returns when the engine can serve. Raises ModelError or ConfigError if it never will."""

    async def stop(self) -> None:
        """Ends the engine and every process it started. In-flight requests end with EngineDied. Safe to call twice."""

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be served. False while restarting."""

    @property
    def stats(self) -> EngineStats:
        """The latest snapshot. Never blocks."""

    def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields what each step added; the last output has a finish_reason. Closing the iterator aborts the request.

        Raises RequestError if it can never fit, AdapterNotFound if the adapter is not loaded, Overloaded, EngineDied."""

    async def load_adapter(self, path: Path) -> AdapterVersion:
        """Reads, checks and makes resident the PEFT folder. Loading content that is already loaded is quick and changes nothing.

        Raises AdapterRejected with the reason; then nothing has changed."""

    async def unload_adapter(self, version: str) -> int:
        """Frees a version once its last running request has ended; new requests for it fail from now on. Returns the bytes freed.

        Raises AdapterNotFound."""
