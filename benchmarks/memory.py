"""The memory of a process and of all it started."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import psutil

from benchmarks.limits import shape_of
from manylora.engine.checkpoint.base import expected_tensors


def memory_of(pid: int) -> int:
    """Bytes held by a process and its descendants; a page shared by some of them counts once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_full_info().pss
    return total


def weight_bytes(folder: Path, quantization: str) -> int:
    """Bytes of a model's packed products, and of its embedding table beside them: two an element, or one in int8."""
    shape = shape_of(folder)
    sizes = {name: math.prod(dims) for name, dims in expected_tensors(shape).items()}
    table = sizes.pop("model.embed_tokens.weight")
    products = sum(sizes.values()) + (table if shape.tied_embeddings else 0)
    return 2 * table + products * (1 if quantization == "int8" else 2)
