"""The Python face of the native kernels: preallocated buffers, packed weights, resident adapters, and operations on them.

Operations take handles only and run on a `Runtime`. They check shapes, raise ValueError, and allocate
nothing but the runtime's scratch, which grows when a step needs more than any before it.
What each computes is told in native/include/manylora/, one header per family.
"""

from __future__ import annotations

from collections.abc import Mapping

from manylora.errors import ConfigError
from manylora.kernels._native import (
    Adapter,
    Arena,
    Batch,
    KvCache,
    Linear,
    Matrix,
    Runtime,
    Sampler,
    Segments,
    attention,
    capabilities,
    embed,
    gated_linear,
    gather,
    kv_block_bytes,
    linear,
    logprobs,
    lora_a_bytes,
    lora_b_bytes,
    pack_lora_a,
    pack_lora_b,
    panel_width,
    probe_bf16_products,
    probe_int8_products,
    probe_read,
    release_freed_memory,
    rms_norm,
    rotary,
    sample,
    silu_multiply,
)

__all__ = [
    "Adapter",
    "Arena",
    "Batch",
    "KvCache",
    "Linear",
    "Matrix",
    "Runtime",
    "Sampler",
    "Segments",
    "attention",
    "capabilities",
    "choose_capability",
    "embed",
    "gated_linear",
    "gather",
    "kv_block_bytes",
    "linear",
    "logprobs",
    "lora_a_bytes",
    "lora_b_bytes",
    "pack_lora_a",
    "pack_lora_b",
    "panel_width",
    "probe_bf16_products",
    "probe_int8_products",
    "probe_read",
    "release_freed_memory",
    "rms_norm",
    "rotary",
    "sample",
    "silu_multiply",
]


def choose_capability(env: Mapping[str, str]) -> str:
    """The instruction set to run on: the one that MANYLORA_ISA names, else the fastest that CPU and build have.

    Raises ConfigError when MANYLORA_ISA names one that is missing here.
    """
    available = capabilities()
    asked = env.get("MANYLORA_ISA", "")
    if not asked:
        return available[-1]
    if asked not in available:
        names = ", ".join(available)
        raise ConfigError(
            f"MANYLORA_ISA={asked} is not among what this CPU and build have ({names}): unset it or name one of them"
        )
    return asked
