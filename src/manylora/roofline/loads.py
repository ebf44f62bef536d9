"""The floors of whole loads, made of the floors of their steps."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from manylora.roofline.cost import ModelCosts, StepLoad
from manylora.roofline.machine import Machine


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` requests always in flight, each with its own prompt. They go round the adapters; without any, the base."""

    concurrency: int
    prompt: int
    output: int
    chunk: int
    """Prompt tokens of one step at most."""
    adapters: tuple[int, ...] = ()
    """Bytes of each."""

    @property
    def adapter_bytes(self) -> float:
        """Of the mean adapter."""
        return fmean(self.adapters) if self.adapters else 0.0

    @property
    def mean_context(self) -> float:
        """Positions that a decode attends to: prompt + 1 for the first, prompt + output - 1 for the last."""
        return self.prompt + self.output / 2


@dataclass(frozen=True, slots=True)
class Floors:
    """What no engine beats on this machine. Times in seconds."""

    output_tokens_per_second: float
    """Prefill and decode in steps of their own."""
    mixed_tokens_per_second: float
    """The same, or, where that is more, prompts spread evenly over the decode steps: one's reads hide behind the other's
    arithmetic. An engine that mixes them may pass the number above, but not this one."""
    decode_step: float
    """One token for every request in flight."""
    prefill: float
    """One request's share of prefill steps filled with prompts."""
    lone_ttft: float
    """First token of a prompt alone on the machine."""
    lone_tpot: float
    """One token of a single stream at the mean context."""


def floors(model: ModelCosts, machine: Machine, load: ClosedLoop) -> Floors:
    """All floors of a load."""
    decode_step = model.step(decode(load, load.concurrency)).seconds(machine)
    prefill = _prefill_seconds(model, machine, load)
    lone = ClosedLoop(1, load.prompt, load.output, load.chunk, load.adapters)
    apart = load.output / (prefill + (load.output - 1) * decode_step / load.concurrency)
    return Floors(
        output_tokens_per_second=apart,
        mixed_tokens_per_second=max(apart, _mixed_tokens_per_second(model, machine, load)),
        decode_step=decode_step,
        prefill=prefill,
        lone_ttft=_prefill_seconds(model, machine, lone),
        lone_tpot=model.step(decode(load, 1)).seconds(machine),
    )


def decode(load: ClosedLoop, rows: float) -> StepLoad:
    """A step of decodes at the load's mean context."""
    return StepLoad(
        rows=rows,
        samples=rows,
        context=rows * (load.mean_context - 1),
        attended=rows * load.mean_context,
        adapters=min(len(load.adapters), rows),
        adapter_bytes=load.adapter_bytes,
        adapted_rows=rows if load.adapters else 0,
    )


def _chunk(load: ClosedLoop, requests: float, start: int, rows: int, samples: bool) -> StepLoad:
    """Tokens [start, start + rows) of so many prompts."""
    return StepLoad(
        rows=requests * rows,
        samples=requests if samples else 0,
        context=requests * start,
        attended=requests * (rows * start + rows * (rows + 1) / 2),
        adapters=min(len(load.adapters), requests),
        adapter_bytes=load.adapter_bytes,
        adapted_rows=requests * rows if load.adapters else 0,
    )


def _prefill_seconds(model: ModelCosts, machine: Machine, load: ClosedLoop) -> float:
    """Of one request. A short prompt shares its step with as many others as fit and are there; the first token is among it."""
    if load.prompt <= load.chunk:
        together = min(load.chunk / load.prompt, load.concurrency)
        return model.step(_chunk(load, together, 0, load.prompt, True)).seconds(machine) / together
    starts = range(0, load.prompt, load.chunk)
    chunks = [(start, min(load.chunk, load.prompt - start)) for start in starts]
    steps = [_chunk(load, 1, start, rows, start + rows == load.prompt) for start, rows in chunks]
    return sum(model.step(step).seconds(machine) for step in steps)


def _mixed_tokens_per_second(model: ModelCosts, machine: Machine, load: ClosedLoop) -> float:
    """Every step holds a decode of each request in flight (or as many as its size lets) and their share of prompts."""
    decodes_per_request = load.output - 1
    if decodes_per_request == 0:
        return 0.0
    prompts = load.concurrency / decodes_per_request  # that a step must take in, on the mean
    fitting = min(1.0, max(load.chunk, load.concurrency) / (load.concurrency + prompts * load.prompt))
    rows, prompts = load.concurrency * fitting, prompts * fitting
    decodes, share = decode(load, rows), _chunk(load, prompts, 0, load.prompt, True)
    step = StepLoad(
        rows=decodes.rows + share.rows,
        samples=decodes.samples + share.samples,
        context=decodes.context,
        attended=decodes.attended + share.attended,
        adapters=min(len(load.adapters), rows + prompts),
        adapter_bytes=load.adapter_bytes,
        adapted_rows=decodes.adapted_rows + share.adapted_rows,
    )
    return (rows + prompts) / model.step(step).seconds(machine)
