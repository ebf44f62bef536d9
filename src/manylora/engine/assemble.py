"""Builds an engine core from its configuration: opens the checkpoint, packs it, cuts the arena, allocates every buffer."""

from __future__ import annotations

import os
from pathlib import Path

from manylora import kernels
from manylora.adapters import read_adapter
from manylora.engine.checkpoint import Checkpoint, open_checkpoint
from manylora.engine.checkpoint.merged import MergedCheckpoint
from manylora.engine.config import EngineConfig
from manylora.engine.core import EngineCore
from manylora.engine.image import ArenaLayout, arena_layout
from manylora.engine.models.llama import Llama
from manylora.engine.residency import Residency
from manylora.engine.runner import Runner, RunnerLimits
from manylora.engine.step_log import StepLog, unlogged
from manylora.engine.weights import OnProgress, pack_weights
from manylora.errors import ConfigError
from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import BLOCK_TOKENS, KvBlocks, blocks_for
from manylora.policy.scheduler import Scheduler, SchedulerConfig
from manylora.types.engine import EngineInfo
from manylora.types.model import ModelShape

SPARE_BYTES = 1 << 30
"""Of the machine's memory, never made real before it is needed."""
DEFAULT_MODEL_LEN = 8192
"""Without `max_model_len`, what a model's own limit is cut to: longer contexts are a choice, because they cost memory."""


def assemble(
    config: EngineConfig, capability: str, on_progress: OnProgress, log: StepLog | None = None
) -> tuple[EngineCore, EngineInfo, int]:
    """The core, what it says of itself, and the bytes of an extent. Raises ModelError, ConfigError or AdapterRejected.

    The log begins with the runtime."""
    charge = unlogged if log is None else log.charge
    checkpoint = open_base(config)
    shape = checkpoint.shape
    layout = arena_layout(shape, config.memory_bytes)
    model_len = _model_len(config, shape, layout)
    threads = config.threads or available_threads()
    runtime = kernels.Runtime(threads, capability)
    weights = pack_weights(checkpoint, runtime, model_len, config.quantization, on_progress)
    try:
        arena = kernels.Arena(layout.extents * layout.extent_bytes)
    except MemoryError as error:
        raise ConfigError(f"the system does not give {config.memory_bytes / 2**30:.1f} GiB of memory: lower --memory") from error
    limits = RunnerLimits(config.max_num_batched_tokens, config.max_num_seqs, model_len)
    model = Llama(shape, weights, runtime, limits.rows, limits.sequences)
    kv = kernels.KvCache(arena, shape.layers, shape.kv_heads, shape.head_dim)
    runner = Runner(model, runtime, kv, limits, charge)
    extents = Extents(layout.extents, layout.blocks_per_extent)
    blocks = KvBlocks(extents)
    kv_floor = -(-blocks_for(model_len) // layout.blocks_per_extent)
    core = EngineCore(
        Scheduler(_scheduler_config(config, model_len), blocks),
        runner,
        Residency(arena, extents, blocks, kv_floor, min(arena.bytes, max(0, spare_memory() - SPARE_BYTES))),
        vocab=shape.vocab,
        max_waiting=config.max_waiting,
        prefix_cache=config.prefix_cache,
        charge=charge,
    )
    if log is not None:
        log.begin(runtime)
    info = EngineInfo(shape, model_len, layout.kv_tokens, capability, threads, config.quantization)
    return core, info, layout.extent_bytes


def spare_memory() -> int:
    """Bytes that this process could still take: what the system has available, or its control group leaves if that is less.

    0 where the system does not say."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (group / name for name in ("memory.max", "memory.current"))
        return min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or no limit
        return available


def open_base(config: EngineConfig) -> Checkpoint:
    """The base model, with the adapter of `merge` folded in when one is named."""
    checkpoint = open_checkpoint(config.model)
    if config.merge is None:
        return checkpoint
    return MergedCheckpoint(checkpoint, read_adapter(config.merge, checkpoint.shape))


def available_threads() -> int:
    """CPUs this process may use: its affinity, and the quota of its control group when that is smaller."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


def _model_len(config: EngineConfig, shape: ModelShape, layout: ArenaLayout) -> int:
    wanted = config.max_model_len or min(shape.max_position, DEFAULT_MODEL_LEN)
    if wanted > shape.max_position:
        raise ConfigError(f"max_model_len {wanted} exceeds the model's {shape.max_position} positions")
    if wanted > layout.kv_tokens:
        if config.max_model_len is None and layout.kv_tokens >= BLOCK_TOKENS:
            return layout.kv_tokens
        needed = -(-blocks_for(wanted) // layout.blocks_per_extent) * layout.extent_bytes
        raise ConfigError(
            f"{config.memory_bytes / 2**20:.0f} MiB hold {layout.kv_tokens} tokens, fewer than max_model_len {wanted}: "
            f"raise --memory to at least {needed / 2**20:.0f} MiB or lower --max-model-len"
        )
    return wanted


def _scheduler_config(config: EngineConfig, model_len: int) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=model_len,
        max_wait_ns=int(config.max_wait_seconds * 1e9),
    )
