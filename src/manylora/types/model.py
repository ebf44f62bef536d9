"""What the rest of the house needs to know of a base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of a decoder block that adapters may change, in canonical order."""

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Frequency scaling of rotary embeddings. kind 'llama3' follows the Llama 3.1 release; 'linear' divides positions."""

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a Llama-like decoder (Llama, SmolLM2, Mistral, Qwen2, Qwen3 dense). Counts are elements."""

    family: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_position: int
    rms_eps: float
    rope_theta: float
    rope_scaling: RopeScaling = RopeScaling()
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    """A bias on o_proj (Llama's `attention_bias`)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm over each query and key head (Qwen3)."""

    def projection_shape(self, name: str) -> tuple[int, int]:
        """(columns out, depth in) of one of PROJECTIONS."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (query, self.hidden),
            "k_proj": (key, self.hidden),
            "v_proj": (key, self.hidden),
            "o_proj": (self.hidden, query),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }[name]


def module_name(layer: int, projection: str) -> str:
    """The Hugging Face name of one linear layer: `model.layers.3.self_attn.q_proj`."""
    part = "self_attn" if projection in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"model.layers.{layer}.{part}.{projection}"
