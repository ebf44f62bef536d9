"""Logits of every position of given tokens, from the product's own model and kernels, and from transformers with PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForCausalLM

from manylora import kernels
from manylora.adapters import read_adapter
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.image import arena_layout, write_image
from manylora.engine.models.llama import Llama
from manylora.engine.residency import Residency
from manylora.engine.weights import pack_weights
from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import KvBlocks, blocks_for

CHUNK = 64
Logits = NDArray[np.float32]


class Ours:
    """A packed model that scores whole texts, adapter by adapter, in chunks of CHUNK rows."""

    def __init__(self, folder: Path, scratch: Path, capability: str, quantization: str = "none", positions: int = 512) -> None:
        checkpoint = open_checkpoint(folder)
        self._shape, self._scratch = checkpoint.shape, scratch
        self._runtime = kernels.Runtime(2, capability)
        weights = pack_weights(checkpoint, self._runtime, positions, quantization, lambda stage, done, total: None)
        self._model = Llama(self._shape, weights, self._runtime, CHUNK, CHUNK)
        layout = arena_layout(self._shape, 128 << 20)
        self._extent_bytes = layout.extent_bytes
        self._arena = kernels.Arena(layout.extents * layout.extent_bytes)
        extents = Extents(layout.extents, layout.blocks_per_extent)
        self._residency = Residency(self._arena, extents, KvBlocks(extents), 0)
        self._blocks = extents.take_blocks(blocks_for(positions))
        self._kv = kernels.KvCache(self._arena, self._shape.layers, self._shape.kv_heads, self._shape.head_dim)

    def logits(self, tokens: list[int], adapter: Path | None) -> Logits:
        """Float32 [len(tokens), vocab]."""
        handle = None if adapter is None else self._resident(adapter)
        batch, segments = kernels.Batch(CHUNK, 1, 1, len(self._blocks)), kernels.Segments(1)
        batch.block_tables[0, :] = self._blocks
        result = np.empty((len(tokens), self._shape.vocab), np.float32)
        for first in range(0, len(tokens), CHUNK):
            rows = min(CHUNK, len(tokens) - first)
            batch.token_ids[:rows] = tokens[first : first + rows]
            batch.positions[:rows] = range(first, first + rows)
            batch.sequence_starts[:2] = (0, rows)
            batch.sequence_slots[0] = 0
            batch.begin(rows, 1)
            segments.reset(rows)
            if handle is not None:
                segments.add(0, rows, handle)
            self._model.forward(batch, segments, self._kv, rows)
            batch.gather_rows[:rows] = range(rows)
            result[first : first + rows] = self._model.logits(batch, rows).array[:rows]
        return result

    def _resident(self, folder: Path) -> kernels.Adapter:
        adapter = read_adapter(folder, self._shape)
        image = write_image(adapter, self._shape, self._extent_bytes, self._scratch / f"{adapter.version.hash}.image")
        self._residency.attach(image, 1)
        list(self._residency.progress(0, None))
        return self._residency.acquire(adapter.version.hash)


class Reference:
    """transformers and PEFT on the same folders, computing in `dtype`. The weights are bfloat16 values in either."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()

    def logits(self, tokens: list[int], adapter: Path | None) -> Logits:
        """Float32 [len(tokens), vocab]."""
        model = self._model
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).to(self._dtype).eval()
        with torch.inference_mode():
            logits: Logits = model(torch.tensor([tokens])).logits[0].float().numpy()
        if adapter is not None:
            self._model = model.unload()
        return logits


def divergence(expected: Logits, got: Logits) -> NDArray[np.float64]:
    """KL(expected || got) of each position, in nats."""
    p, q = log_softmax(expected), log_softmax(got)
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
    return result


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """In float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return result
