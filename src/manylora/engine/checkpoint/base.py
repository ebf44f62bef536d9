"""The Checkpoint contract: one base model on disk, whatever its file format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from manylora.errors import ModelError
from manylora.types.model import PROJECTIONS, ModelShape, module_name

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
"""The dtype of every tensor a checkpoint returns."""

HEAD_DIM_STEP, MAX_HEAD_DIM, MAX_GROUP_HEADS = 16, 256, 16
"""What the kernels of attention can do: kMaxHeadDim of kv_cache.h and kMaxGroupHeads of attention.h."""


class Checkpoint(Protocol):
    """A base model's dimensions, weights and text conventions. Opening one has already checked that every tensor of the
    model is there with the right shape; weights are read when asked for, so opening is quick."""

    @property
    def shape(self) -> ModelShape:
        """The model's dimensions."""

    @property
    def source(self) -> str:
        """The file or folder it was opened from, as given."""

    def names(self) -> tuple[str, ...]:
        """Every tensor of the model, by Hugging Face name, in model order; no `lm_head.weight` if embeddings are tied."""

    def has(self, name: str) -> bool:
        """Whether `tensor(name)` would succeed."""

    def tensor(self, name: str) -> NDArray[Any]:
        """One tensor as bfloat16 [columns out, depth in] (or [n] for norms and biases), rounded once to nearest even if the
        file is wider. Read anew at each call. Raises ModelError for an unknown name or unreadable bytes."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; `encode(text, add_special_tokens=True)` gives the ids that transformers' AutoTokenizer gives."""

    @property
    def chat_template(self) -> str | None:
        """The jinja2 source of the default chat template."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """`bos_token`, `eos_token`, ... by name, as transformers hands them to chat templates."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: those of generation_config, else of the config, else of the tokenizer."""


def expected_tensors(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a model, in model order."""
    expected: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        expected[f"{block}.input_layernorm.weight"] = (shape.hidden,)
        for projection in PROJECTIONS:
            module = module_name(layer, projection)
            columns, depth = shape.projection_shape(projection)
            expected[f"{module}.weight"] = (columns, depth)
            if _has_bias(shape, projection):
                expected[f"{module}.bias"] = (columns,)
        if shape.qk_norm:
            expected[f"{block}.self_attn.q_norm.weight"] = (shape.head_dim,)
            expected[f"{block}.self_attn.k_norm.weight"] = (shape.head_dim,)
        expected[f"{block}.post_attention_layernorm.weight"] = (shape.hidden,)
    expected["model.norm.weight"] = (shape.hidden,)
    if not shape.tied_embeddings:
        expected["lm_head.weight"] = (shape.vocab, shape.hidden)
    return expected


def _has_bias(shape: ModelShape, projection: str) -> bool:
    if projection in ("q_proj", "k_proj", "v_proj"):
        return shape.qkv_bias
    return shape.output_bias if projection == "o_proj" else shape.mlp_bias


def check_heads(source: str, shape: ModelShape) -> None:
    """Raises ModelError, naming the numbers, if the kernels have no attention for such heads."""
    heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim
    if head_dim % HEAD_DIM_STEP or not 0 < head_dim <= MAX_HEAD_DIM:
        raise ModelError(
            f"{source}: heads of {head_dim} elements (head_dim) are not supported, only multiples of {HEAD_DIM_STEP} "
            f"up to {MAX_HEAD_DIM}"
        )
    if heads % kv_heads or not 0 < heads // kv_heads <= MAX_GROUP_HEADS:
        raise ModelError(
            f"{source}: {heads} query heads on {kv_heads} key/value heads are not supported, only 1 to {MAX_GROUP_HEADS} on each"
        )


def check_tensors(source: str, found: Mapping[str, tuple[int, ...]], shape: ModelShape, ignored: Iterable[str] = ()) -> None:
    """Raises ModelError, naming the tensor, if one is missing, unknown or misshapen. `ignored` are known to carry no weights."""
    expected = expected_tensors(shape)
    missing = [name for name in expected if name not in found]
    if missing:
        raise ModelError(f"{source}: tensor {_some(missing)} missing: the checkpoint is incomplete, fetch it again")
    skip = set(ignored)
    extra = [name for name in found if name not in expected and name not in skip]
    if extra:
        raise ModelError(f"{source}: tensor {_some(extra)} does not belong to a {shape.family} model with this config")
    for name, dimensions in expected.items():
        if tuple(found[name]) != dimensions:
            raise ModelError(f"{source}: tensor {name} has shape {list(found[name])}, the config asks for {list(dimensions)}")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def to_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """`values` in bfloat16, contiguous; wider floats are rounded to nearest even."""
    return np.ascontiguousarray(values if values.dtype == BFLOAT16 else values.astype(BFLOAT16))
