"""`manylora serve`: a base model and its adapters behind the OpenAI API."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from manylora.cli.byte_size import parse_bytes, show_bytes
from manylora.engine.config import EngineConfig
from manylora.errors import ConfigError
from manylora.server.config import ServerConfig


def _default(config: type, name: str) -> Any:
    """The default that a config class states; written there and nowhere else."""
    return next(field.default for field in dataclasses.fields(config) if field.name == name)


def serve(
    model: Annotated[Path, typer.Argument(help="The base model: a Hugging Face folder or a .gguf file.", show_default=False)],
    adapter: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="A PEFT adapter to serve; repeat for more.")] = [],  # noqa: B006 - typer copies it
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _default(ServerConfig, "host"),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = _default(ServerConfig, "port"),
    served_model_name: Annotated[
        list[str], typer.Option(metavar="NAME", help="Name of the base model; repeat for more.  [default: its folder's name]")
    ] = [],  # noqa: B006
    max_model_len: Annotated[
        int | None, typer.Option(help="Prompt plus new tokens of one request.  [default: the model's limit]")
    ] = _default(EngineConfig, "max_model_len"),
    max_num_seqs: Annotated[int, typer.Option(help="Requests running at once.")] = _default(EngineConfig, "max_num_seqs"),
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens of one engine step.")] = _default(
        EngineConfig, "max_num_batched_tokens"
    ),
    max_waiting: Annotated[int, typer.Option(help="Requests queued before more are refused with 429.")] = _default(
        EngineConfig, "max_waiting"
    ),
    memory: Annotated[str, typer.Option(metavar="SIZE", help="For KV cache and adapters together: 4GiB, 512MiB.")] = show_bytes(
        _default(EngineConfig, "memory_bytes")
    ),
    threads: Annotated[int | None, typer.Option(help="Kernel threads.  [default: the CPUs of this process]")] = _default(
        EngineConfig, "threads"
    ),
    prefix_cache: Annotated[bool, typer.Option(help="Reuse the KV of equal prompt beginnings.")] = _default(
        EngineConfig, "prefix_cache"
    ),
    merge: Annotated[
        str | None, typer.Option(metavar="NAME", help="Merge this --adapter into the weights and serve only it, at base speed.")
    ] = None,
    allow_runtime_adapters: Annotated[
        bool, typer.Option("--allow-runtime-adapters", help="Enable POST /v1/load_lora_adapter and /v1/unload_lora_adapter.")
    ] = _default(ServerConfig, "allow_runtime_adapters"),
    adapter_root: Annotated[
        list[Path], typer.Option(metavar="FOLDER", help="Runtime adapters are loaded only from below; repeat for more.")
    ] = [],  # noqa: B006
    access_log: Annotated[bool, typer.Option("--access-log", help="Log one line per HTTP request.")] = _default(
        ServerConfig, "access_log"
    ),
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = _default(ServerConfig, "log_level"),
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON objects.")] = _default(ServerConfig, "log_json"),
) -> None:
    """Serve a base model and its LoRA adapters over the OpenAI API; a request's `model` chooses the adapter."""
    import uvloop

    from manylora.cli.serving import run_server

    adapters = [_named_path(given) for given in adapter]
    merged, adapters, names = _merging(merge, adapters, tuple(served_model_name))
    engine = EngineConfig(
        model=model,
        merge=merged,
        threads=threads,
        memory_bytes=parse_bytes(memory),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_waiting=max_waiting,
        prefix_cache=prefix_cache,
    )
    server = ServerConfig(
        host=host,
        port=port,
        served_model_names=names,
        allow_runtime_adapters=allow_runtime_adapters,
        adapter_roots=tuple(adapter_root),
        access_log=access_log,
        log_level=log_level,
        log_json=log_json,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_server(engine, server, adapters))


def _named_path(given: str) -> tuple[str, Path]:
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
