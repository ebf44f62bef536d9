"""`manylora roofline`: what this machine can do at most for a load, and how much of that the server reaches."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from manylora.adapters import read_adapter
from manylora.cli.byte_size import parse_bytes
from manylora.cli.serve import named_path
from manylora.cli.serve_options import Adapters, Model, Quantization, Threads, default_of
from manylora.engine.assemble import available_threads
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.config import EngineConfig
from manylora.engine.image import arena_layout
from manylora.errors import ConfigError
from manylora.kernels import choose_capability
from manylora.policy.kv_blocks import BLOCK_TOKENS, blocks_for
from manylora.roofline.achieved import Achieved, achieve
from manylora.roofline.cost import ModelCosts, adapter_bytes
from manylora.roofline.loads import ClosedLoop, Floors, floors
from manylora.roofline.machine import Machine, best_of, probe
from manylora.types.model import PROJECTIONS, ModelShape

RANK = 16
Rank = Annotated[int | None, typer.Option(min=1, help=f"The rank of those.  [default: {RANK}]")]
Targets = Annotated[
    str | None, typer.Option(metavar="LIST", help="Projections of those, with commas between.  [default: all seven]")
]
Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Of the server.  [default: enough for the load, not below serve's own]")
]


def roofline(
    model: Model,
    adapter: Adapters = [],  # noqa: B006 - typer copies it
    adapters: Annotated[int, typer.Option(min=0, help="With --floor-only: so many adapters that need not exist.")] = 0,
    rank: Rank = None,
    targets: Targets = None,
    quantization: Quantization = default_of(EngineConfig, "quantization"),
    concurrency: Annotated[int, typer.Option(min=1, help="Requests always in flight.")] = 32,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 128,
    output: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64,
    memory: Memory = None,
    threads: Threads = default_of(EngineConfig, "threads"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: seconds, bytes and operations.")] = False,
    floor_only: Annotated[bool, typer.Option("--floor-only", help="Probe and compute, but start no server.")] = False,
) -> None:
    """Measure the machine, compute the floor of a load, put the load on a server, and print achieved over possible."""
    shape = open_checkpoint(model).shape
    if prompt + output > shape.max_position:
        raise ConfigError(f"--prompt {prompt} and --output {output} exceed the model's {shape.max_position} positions: lower one")
    if adapters and (adapter or not floor_only):
        raise ConfigError("--adapters has floors only: add --floor-only, or name real ones with --adapter NAME=PATH alone")
    if not adapters and (rank is not None or targets is not None):
        raise ConfigError("--rank and --targets say what --adapters are like: add --adapters N, or leave them out")
    if floor_only and memory is not None:
        raise ConfigError("--memory is the server's, and --floor-only starts none: leave one of them out")
    named = [named_path(given) for given in adapter]
    sizes = [read_adapter(path, shape).version.bytes for _, path in named] or _synthetic(shape, adapters, rank, targets)
    chunk = max(concurrency, default_of(EngineConfig, "max_num_batched_tokens"))
    load = ClosedLoop(concurrency, prompt, output, chunk, tuple(sizes))
    costs = ModelCosts(shape, quantization)
    capability, threads = choose_capability(os.environ), threads or available_threads()
    config = EngineConfig(
        model=model,
        quantization=quantization,
        threads=threads,
        memory_bytes=enough_memory(costs, load) if memory is None else parse_bytes(memory),
        max_model_len=prompt + output,
        max_num_seqs=max(concurrency, default_of(EngineConfig, "max_num_seqs")),
        max_num_batched_tokens=chunk,
    )
    with _progress() as show:
        show("probing the machine")
        machine = probe(capability, threads)
        achieved = None
        if not floor_only:
            achieved = achieve(model, named, load, shape.vocab, _serve_options(config), show)
            show("probing the machine again")
            machine = best_of(machine, probe(capability, threads))
    possible = floors(costs, machine, load)
    if as_json:
        typer.echo(json.dumps(_json(machine, costs, load, possible, achieved)))
    else:
        _print(machine, costs, load, possible, achieved)


def _synthetic(shape: ModelShape, count: int, rank: int | None, targets: str | None) -> list[int]:
    names = list(PROJECTIONS) if targets is None else targets.split(",")
    unknown = [name for name in names if name not in PROJECTIONS]
    if unknown or len(set(names)) < len(names):
        raise ConfigError(f"--targets {targets}: name each of {', '.join(PROJECTIONS)} at most once")
    return [adapter_bytes(shape, rank or RANK, names)] * count


def enough_memory(costs: ModelCosts, load: ClosedLoop) -> int:
    """Bytes with which no request waits for another's memory, nor an adapter. Each adapter is cut into extents, in which up to a
    third is padding, and begins one of its own."""
    keys_and_values = load.concurrency * blocks_for(load.prompt + load.output) * BLOCK_TOKENS * costs.token_bytes
    extent = arena_layout(costs.shape, 0).extent_bytes
    adapters = sum(size * 3 // 2 + extent for size in load.adapters)
    least: int = default_of(EngineConfig, "memory_bytes")
    return max(least, keys_and_values + adapters + extent)


def _serve_options(config: EngineConfig) -> list[str]:
    options = {
        "--threads": config.threads,
        "--memory": config.memory_bytes,
        "--max-model-len": config.max_model_len,
        "--max-num-seqs": config.max_num_seqs,
        "--max-num-batched-tokens": config.max_num_batched_tokens,
        "--quantization": config.quantization,
    }
    return [part for name, value in options.items() for part in (name, str(value))]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is being done; nothing where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    with console.status("") as status:
        yield status.update


def _json(machine: Machine, costs: ModelCosts, load: ClosedLoop, possible: Floors, achieved: Achieved | None) -> dict[str, Any]:
    return {
        "machine": dataclasses.asdict(machine),
        "model": {
            "quantization": costs.quantization,
            "layer_bytes": costs.layer_bytes,
            "head_bytes": costs.head_bytes,
            "kv_bytes_per_token": costs.token_bytes,
        },
        "load": dataclasses.asdict(load),
        "possible": dataclasses.asdict(possible),
        "achieved": None if achieved is None else dataclasses.asdict(achieved),
    }


def _print(machine: Machine, costs: ModelCosts, load: ClosedLoop, possible: Floors, achieved: Achieved | None) -> None:
    console = Console()
    rates = [("memory", machine.bandwidth, 1e9, "GB/s"), ("bf16", machine.bf16_peak, 1e9, "GFLOP/s")]
    rates += [("int8", machine.int8_peak, 1e9, "GOP/s")] if costs.quantization == "int8" else []
    shown = "; ".join(f"{name} {rate.best / unit:.1f} {of} (median {rate.median / unit:.1f})" for name, rate, unit, of in rates)
    console.print(f"{machine.capability}, {machine.threads} threads: {shown}", highlight=False, soft_wrap=True)
    base = (costs.layer_bytes + costs.head_bytes) / 1e6
    own = f"{sum(load.adapters) / 1e6:.0f} MB of {len(load.adapters)} adapters"
    console.print(f"{base:.0f} MB of weights, {own}", highlight=False, soft_wrap=True)
    table = Table("", "possible", *([] if achieved is None else ["achieved", "of it"]))
    table.title = f"{load.prompt} in, {load.output} out, {load.concurrency} in flight"
    speed = None if achieved is None else achieved.output_tokens_per_second
    _row(table, "output tokens/s", possible.mixed_tokens_per_second, speed, 1, higher=True)
    table.add_row("with prefill and decode in steps of their own", f"{possible.output_tokens_per_second:.1f}")
    for label, limit, name in (
        ("time per token in flight, ms", possible.decode_step, "tpot"),
        ("time per token of one stream, ms", possible.lone_tpot, "lone_tpot"),
        ("first token of a lone prompt, ms", possible.lone_ttft, "lone_ttft"),
    ):
        _row(table, label, limit, None if achieved is None else getattr(achieved, name), 1e3, higher=False)
    console.print(table)


def _row(table: Table, label: str, possible: float, achieved: float | None, scale: float, *, higher: bool) -> None:
    cells = [label, f"{possible * scale:.1f}", "—", "—"]
    if achieved is not None:
        share = achieved / possible if higher else possible / achieved
        cells[2:] = [f"{achieved * scale:.1f}", f"{share:.0%}"]
    table.add_row(*cells[: len(table.columns)])
