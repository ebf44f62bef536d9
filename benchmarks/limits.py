"""The floor of a load on this machine, from probes taken beside the measurement. docs/roofline.md has the formula."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.cases import TARGETS, Case
from benchmarks.loads import Sample
from manylora import kernels
from manylora.engine.checkpoint.open import open_checkpoint
from manylora.roofline.cost import ModelCosts, adapter_bytes
from manylora.roofline.loads import ClosedLoop, floors
from manylora.roofline.machine import Machine, best_of, probe
from manylora.types.model import ModelShape

CHUNK = 512
"""Tokens of one step of our server, as it starts by itself."""

__all__ = ["best_of", "limit_of", "probe_for", "shape_of"]


def probe_for(case: Case) -> Machine:
    """What memory and arithmetic give at this moment with a case's instruction set; takes about a second."""
    return probe(kernels.choose_capability({"MANYLORA_ISA": case.isa}), len(os.sched_getaffinity(0)))


def shape_of(folder: Path) -> ModelShape:
    """Dimensions of the model in a Hugging Face folder."""
    return open_checkpoint(folder).shape


def limit_of(case: Case, shape: ModelShape, machine: Machine) -> Sample | None:
    """The best that any engine could do: throughput; time per token of a decode step; first token of a lone prompt.

    None for prompts that a prefix cache knows in part: the floors know nothing of it."""
    if case.system and case.prefix_cache:
        return None
    ranks = [int(name.split("-")[0].removeprefix("r")) for name in case.adapter_names]
    sizes = tuple(adapter_bytes(shape, rank, TARGETS[case.targets]) for rank in ranks)
    costs = ModelCosts(shape, "int8" if case.quantization == "int8" else "none")
    floor = floors(costs, machine, ClosedLoop(case.concurrency, case.system + case.prompt, case.output, CHUNK, sizes))
    # Whichever schedule is faster: prompts in steps of their own, or mixed into those of decodes.
    throughput = max(floor.output_tokens_per_second, floor.mixed_tokens_per_second)
    return Sample(throughput, floor.lone_ttft if case.concurrency == 1 else None, floor.decode_step)
