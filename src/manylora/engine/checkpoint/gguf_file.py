"""GGUF files: metadata to ModelShape, blocks dequantised to bfloat16 under Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderField, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray
from tokenizers import Tokenizer

from manylora.engine.checkpoint.base import check_heads, check_tensors, expected_tensors, to_bfloat16
from manylora.engine.checkpoint.gguf_tokenizer import GgufVocabulary, build_tokenizer
from manylora.engine.rotary import inverse_frequencies
from manylora.errors import ModelError
from manylora.types.model import ModelShape, RopeScaling

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 8192}
"""What every Llama 3.1+ release uses; GGUF keeps only the resulting factor of each frequency."""


class GgufCheckpoint:
    """A base model in one GGUF file. Quantised blocks are dequantised in float32 and rounded once to bfloat16."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError if `path` is not a GGUF file of a supported architecture with all its tensors."""
        self.source = str(path)
        try:
            self._reader = GGUFReader(path)
        except (ValueError, KeyError, IndexError, OSError, OverflowError, TypeError) as error:
            raise ModelError(f"{path}: cannot be read as a GGUF file ({error}): it is truncated or not one") from error
        self._fields: Mapping[str, ReaderField] = self._reader.fields
        self._architecture = str(self._field("general.architecture"))
        if self._architecture not in _ARCHITECTURES:
            supported = ", ".join(_ARCHITECTURES)
            raise ModelError(f"{path}: GGUF architecture {self._architecture!r} is not supported (supported: {supported})")
        self._tensors = {_hugging_face_name(tensor.name, self.source): tensor for tensor in self._reader.tensors}
        try:
            self.shape = self._read_shape()
            check_heads(self.source, self.shape)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(f"{path}: metadata holds a value that such a model cannot have ({error})") from error
        found = {name: _dimensions(tensor) for name, tensor in self._tensors.items()}
        check_tensors(self.source, found, self.shape, ignored=[_ROPE_FACTORS])
        self._names = tuple(expected_tensors(self.shape))

    def names(self) -> tuple[str, ...]:
        return self._names

    def has(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> NDArray[Any]:
        stored = self._tensors.get(name)
        if stored is None:
            raise ModelError(f"{self.source}: there is no tensor {name}")
        try:
            values = dequantize(stored.data, stored.tensor_type).reshape(_dimensions(stored))
        except NotImplementedError as error:
            raise ModelError(
                f"{self.source}: {name} is stored as {stored.tensor_type.name}, which cannot be dequantised"
            ) from error
        if self._architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = _rotate_halves(values, self.shape.heads if ".q_proj." in name else self.shape.kv_heads)
        return to_bfloat16(values)

    def tokenizer(self) -> Tokenizer:
        return build_tokenizer(self._vocabulary, self.source)

    @property
    def chat_template(self) -> str | None:
        template = self._field("tokenizer.chat_template", None)
        return None if template is None else str(template)

    @cached_property
    def special_tokens(self) -> Mapping[str, str]:
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        found = {name: self._field(f"tokenizer.ggml.{key}_token_id", None) for name, key in names.items()}
        return {name: self._vocabulary.tokens[index] for name, index in found.items() if index is not None}

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        # "eot" ends a turn where that is another token than the end of text (Llama 3, Qwen).
        found = (self._field(f"tokenizer.ggml.{key}_token_id", None) for key in ("eos", "eot"))
        return tuple(dict.fromkeys(int(index) for index in found if index is not None))

    @cached_property
    def _vocabulary(self) -> GgufVocabulary:
        bos = self._field("tokenizer.ggml.bos_token_id", None)
        tokens = list(self._field("tokenizer.ggml.tokens"))
        pre = str(self._field("tokenizer.ggml.pre", "default"))
        return GgufVocabulary(
            model=str(self._field("tokenizer.ggml.model")),
            pre=pre,
            tokens=tokens,
            types=list(self._field("tokenizer.ggml.token_type", [1] * len(tokens))),
            merges=list(self._field("tokenizer.ggml.merges", [])),
            bos=bos,
            # llama.cpp adds the first token for Llama 3 vocabularies whether the file says so or not.
            add_bos=bool(self._field("tokenizer.ggml.add_bos_token", pre in ("llama-bpe", "llama3", "llama-v3"))),
        )

    def _field(self, key: str, *default: Any) -> Any:
        field = self._fields.get(key)
        if field is not None:
            return field.contents()
        if default:
            return default[0]
        raise ModelError(f"{self.source}: metadata key {key!r} is missing: the file is incomplete")

    def _own(self, key: str, *default: Any) -> Any:
        return self._field(f"{self._architecture}.{key}", *default)

    def _read_shape(self) -> ModelShape:
        hidden, heads = int(self._own("embedding_length")), int(self._own("attention.head_count"))
        head_dim = int(self._own("attention.key_length", hidden // heads))
        rotary = int(self._own("rope.dimension_count", head_dim))
        if rotary != head_dim:
            raise ModelError(f"{self.source}: rotary embedding over {rotary} of {head_dim} dimensions is not supported")
        window = int(self._own("attention.sliding_window", 0))
        positions = int(self._own("context_length"))
        embeddings = self._tensors.get("model.embed_tokens.weight")
        if embeddings is None:
            raise ModelError(f"{self.source}: tensor token_embd.weight missing: the file is incomplete")
        theta = float(self._own("rope.freq_base", 10000.0))
        first = "model.layers.0"
        return ModelShape(
            family=self._architecture,
            vocab=_dimensions(embeddings)[0],
            hidden=hidden,
            intermediate=int(self._own("feed_forward_length")),
            layers=int(self._own("block_count")),
            heads=heads,
            kv_heads=int(self._own("attention.head_count_kv", heads)),
            head_dim=head_dim,
            max_position=min(positions, window) if window else positions,
            rms_eps=_decimal(self._own("attention.layer_norm_rms_epsilon")),
            rope_theta=theta,
            rope_scaling=self._read_rope_scaling(theta, head_dim),
            tied_embeddings="lm_head.weight" not in self._tensors,
            qkv_bias=f"{first}.self_attn.q_proj.bias" in self._tensors,
            output_bias=f"{first}.self_attn.o_proj.bias" in self._tensors,
            mlp_bias=f"{first}.mlp.gate_proj.bias" in self._tensors,
            qk_norm=self._architecture == "qwen3",
        )

    def _read_rope_scaling(self, theta: float, head_dim: int) -> RopeScaling:
        kind = str(self._own("rope.scaling.type", "none"))
        if kind not in ("none", "linear"):
            raise ModelError(f"{self.source}: rope scaling {kind!r} is not supported (supported: none, linear, llama3)")
        factors = self._tensors.get(_ROPE_FACTORS)
        if factors is None:
            return RopeScaling("linear", float(self._own("rope.scaling.factor"))) if kind == "linear" else RopeScaling()
        stored = dequantize(factors.data, factors.tensor_type).reshape(-1)
        scaling = RopeScaling("llama3", float(stored.max()), **_LLAMA3)  # type: ignore[arg-type]
        plain = inverse_frequencies(head_dim, theta, RopeScaling())
        scaled = inverse_frequencies(head_dim, theta, scaling)
        if stored.shape != plain.shape or not np.allclose(plain / stored, scaled, rtol=1e-4):
            raise ModelError(f"{self.source}: {_ROPE_FACTORS} is not the Llama 3 frequency scaling, nothing else is supported")
        return scaling


def _hugging_face_name(name: str, source: str) -> str:
    if name == _ROPE_FACTORS:
        return name
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _MODULES:
        return f"model.layers.{parts[1]}.{_MODULES[parts[2]]}.{parts[3]}"
    raise ModelError(f"{source}: tensor {name} is not part of a model that is supported")


def _dimensions(tensor: ReaderTensor) -> tuple[int, ...]:
    # GGUF lists the fastest dimension first.
    return tuple(int(n) for n in reversed(tensor.shape))


def _decimal(value: Any) -> float:
    """A float32 of the file as the short decimal it was written from: 9.99999974e-06 is 1e-05."""
    return float(str(np.float32(value)))


def _rotate_halves(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a llama-architecture GGUF pair neighbours (2i, 2i+1) for rotation; Hugging Face pairs (i, i + head_dim/2)."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
