"""`manylora serve`: a base model and its adapters behind the OpenAI API."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from manylora.cli import serve_options as options
from manylora.cli.byte_size import parse_bytes, show_bytes
from manylora.cli.serve_options import default_of
from manylora.engine.config import EngineConfig
from manylora.errors import ConfigError
from manylora.server.config import ServerConfig

EPILOG = (
    "The environment variable MANYLORA_ISA names the kernels' instruction set: scalar, avx2, avx512bf16 or amx. "
    "Without it they use the fastest of this machine."
)


def serve(
    model: options.Model,
    adapter: options.Adapters = [],  # noqa: B006 - typer copies it; so below
    host: options.Host = default_of(ServerConfig, "host"),
    port: options.Port = default_of(ServerConfig, "port"),
    served_model_name: options.ServedNames = [],  # noqa: B006
    max_model_len: options.MaxModelLen = default_of(EngineConfig, "max_model_len"),
    max_num_seqs: options.MaxNumSeqs = default_of(EngineConfig, "max_num_seqs"),
    max_num_batched_tokens: options.MaxNumBatchedTokens = default_of(EngineConfig, "max_num_batched_tokens"),
    max_waiting: options.MaxWaiting = default_of(EngineConfig, "max_waiting"),
    memory: options.Memory = show_bytes(default_of(EngineConfig, "memory_bytes")),
    threads: options.Threads = default_of(EngineConfig, "threads"),
    quantization: options.Quantization = default_of(EngineConfig, "quantization"),
    prefix_cache: options.PrefixCache = default_of(EngineConfig, "prefix_cache"),
    merge: options.Merge = None,
    allow_runtime_adapters: options.AllowRuntimeAdapters = default_of(ServerConfig, "allow_runtime_adapters"),
    adapter_root: options.AdapterRoots = [],  # noqa: B006
    max_body: options.MaxBody = show_bytes(default_of(ServerConfig, "max_body_bytes")),
    step_log: options.StepLog = default_of(EngineConfig, "step_log"),
    access_log: options.AccessLog = default_of(ServerConfig, "access_log"),
    log_level: options.LogLevel = default_of(ServerConfig, "log_level"),
    log_json: options.LogJson = default_of(ServerConfig, "log_json"),
) -> None:
    """Serve a base model and its LoRA adapters over the OpenAI API; a request's `model` chooses the adapter."""
    import uvloop

    from manylora.cli.serving import run_server

    adapters = [named_path(given) for given in adapter]
    merged, adapters, names = _merging(merge, adapters, tuple(served_model_name))
    engine = EngineConfig(
        model=model,
        merge=merged,
        quantization=quantization,
        threads=threads,
        memory_bytes=parse_bytes(memory),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_waiting=max_waiting,
        prefix_cache=prefix_cache,
        step_log=step_log,
    )
    server = ServerConfig(
        host=host,
        port=port,
        served_model_names=names,
        allow_runtime_adapters=allow_runtime_adapters,
        adapter_roots=tuple(adapter_root),
        max_body_bytes=parse_bytes(max_body),
        access_log=access_log,
        log_level=log_level,
        log_json=log_json,
    )
    # Ctrl-C before the server handles signals itself is a stop like any other.
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_server(engine, server, adapters))


def named_path(given: str) -> tuple[str, Path]:
    """What NAME=PATH says. Raises ConfigError."""
    name, equals, path = given.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"--adapter {given}: write it as NAME=PATH")
    return name, Path(path)


def _merging(
    merge: str | None, adapters: list[tuple[str, Path]], names: tuple[str, ...]
) -> tuple[Path | None, list[tuple[str, Path]], tuple[str, ...]]:
    """The adapter to merge, the adapters left, and the names the weights are served under."""
    if merge is None:
        return None, adapters, names
    paths = dict(adapters)
    if merge not in paths:
        raise ConfigError(f"--merge {merge}: no --adapter {merge}=PATH is given")
    if len(adapters) > 1:
        raise ConfigError("--merge serves one adapter alone: give its --adapter and no other")
    return paths[merge], [], names or (merge,)
