"""The floor of a load on this machine, from probes taken beside the measurement. docs/roofline.md has the formula."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import TARGETS, Case
from benchmarks.loads import Sample
from manylora import kernels
from manylora.cli.serve_options import default_of
from manylora.engine.assemble import available_threads
from manylora.engine.checkpoint.open import open_checkpoint
from manylora.engine.config import EngineConfig
from manylora.roofline.cost import ModelCosts, adapter_bytes
from manylora.roofline.loads import ClosedLoop, floors
from manylora.roofline.machine import Machine, best_of, probe
from manylora.types.model import ModelShape

CHUNK = default_of(EngineConfig, "max_num_batched_tokens")
"""Tokens of one step of our server, as it starts by itself."""

__all__ = ["best_of", "costs_of", "limit_of", "probe_for", "shape_of"]


def probe_for(case: Case) -> Machine:
    """What memory and arithmetic give at this moment with a case's instruction set; takes about a second."""
    return probe(kernels.choose_capability({"MANYLORA_ISA": case.isa}), available_threads())


def shape_of(folder: Path) -> ModelShape:
    """Dimensions of the model in a Hugging Face folder."""
    return open_checkpoint(folder).shape


def costs_of(shape: ModelShape, quantization: str) -> ModelCosts:
    """Of a model in a case's quantisation: bf16 is none."""
    return ModelCosts(shape, "int8" if quantization == "int8" else "none")


def limit_of(case: Case, shape: ModelShape, machine: Machine) -> Sample | None:
    """The best that any engine could do: throughput; time per token of a decode step; first token of a lone prompt.

    None for prompts that a prefix cache knows in part: the floors know nothing of it."""
    if case.system and case.prefix_cache:
        return None
    ranks = [int(name.split("-")[0].removeprefix("r")) for name in case.adapter_names]
    sizes = tuple(adapter_bytes(shape, rank, TARGETS[case.targets]) for rank in ranks)
    load = ClosedLoop(case.concurrency, case.system + case.prompt, case.output, CHUNK, sizes)
    floor = floors(costs_of(shape, case.quantization), machine, load)
    return Sample(floor.mixed_tokens_per_second, floor.lone_ttft if case.concurrency == 1 else None, floor.decode_step)
