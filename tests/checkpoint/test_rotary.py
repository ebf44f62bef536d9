"""Rotary tables against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from manylora.engine.checkpoint.config import read_config
from manylora.engine.rotary import rope_tables
from tests.checkpoint.tiny_models import tiny_model

_ROPES = {
    "default": {"rope_type": "default", "rope_theta": 100000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "llama3.2": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("rope", list(_ROPES))
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_tables_equal_those_of_transformers(rope: str, head_dim: int) -> None:
    """The engine turns queries and keys by the angles that the model was trained with, at any position and scaling.

    Frequencies may differ from torch's by one unit in the last place, which at position p moves the angle by p * 1.2e-7."""
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=32768, rope_parameters=dict(_ROPES[rope])
    )
    shape = read_config({**config.to_dict(), "architectures": ["LlamaForCausalLM"]}, "test")
    positions = np.array([0, 1, 2, 7, 100, 1023, 8191, 20000])
    reference = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions)[None])
    tolerance = 1e-6 + positions[:, None] * 1.3e-7
    for ours, theirs in zip(rope_tables(shape, positions), reference, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == (len(positions), head_dim // 2)
        assert (np.abs(ours - theirs[0, :, : head_dim // 2].numpy()) <= tolerance).all()


def test_scaled_frequencies_differ_from_plain_ones() -> None:
    """A scaling that is silently dropped would pass a test that only compares close positions."""
    plain, scaled = (read_config(tiny_model(family).config.to_dict(), "test") for family in ("llama", "llama3"))
    assert not np.allclose(rope_tables(plain, [100])[0], rope_tables(scaled, [100])[0], atol=1e-2)
