"""A base model with one adapter folded into its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from manylora.adapters.loaded import LoadedAdapter
from manylora.engine.checkpoint.base import Checkpoint, to_bfloat16
from manylora.types.model import PROJECTIONS, ModelShape


class MergedCheckpoint:
    """`base` with `adapter` merged: W + scale * B A, computed in float32 and rounded once to bfloat16, when a tensor is read.

    The adapter must have been read for `base.shape`. Everything but the weights is the base's."""

    def __init__(self, base: Checkpoint, adapter: LoadedAdapter) -> None:
        self._base = base
        self._adapter = adapter
        self.shape: ModelShape = base.shape
        self.source = f"{base.source} + {adapter.version.short}"

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def has(self, name: str) -> bool:
        return self._base.has(name)

    def tensor(self, name: str) -> NDArray[Any]:
        return merged_tensor(self._base, self._adapter, name)

    def tokenizer(self) -> Tokenizer:
        return self._base.tokenizer()

    @property
    def chat_template(self) -> str | None:
        return self._base.chat_template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return self._base.special_tokens

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._base.eos_token_ids


def merged_tensor(checkpoint: Checkpoint, adapter: LoadedAdapter, name: str) -> NDArray[Any]:
    """bfloat16 tensor `name` of the merged model; the checkpoint's own where the adapter does not act."""
    weight = checkpoint.tensor(name)
    parts = name.split(".")
    if len(parts) != 6 or parts[4] not in PROJECTIONS or parts[5] != "weight":
        return weight
    layer, projection = int(parts[2]), parts[4]
    if (layer, projection) not in adapter.pairs:
        return weight
    return to_bfloat16(weight.astype(np.float32) + adapter.delta(layer, projection))
