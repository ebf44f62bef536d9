"""Merging: one adapter folded into the base weights, explicitly."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from manylora.adapters import read_adapter
from manylora.cli.merge import merge
from manylora.engine.checkpoint import MergedCheckpoint, open_checkpoint
from manylora.types.model import PROJECTIONS
from tests.adapters.peft_folders import bits, save_adapter
from tests.checkpoint.tiny_models import FAMILIES, save_tiny
from tests.checkpoint.tiny_tokenizers import save_tokenizer


@pytest.mark.parametrize("family", list(FAMILIES))
def test_merged_weights_are_those_of_peft(family: str, tmp_path: Path) -> None:
    """W + scale * B A in float32, rounded once: within half a unit in the last bfloat16 place of PEFT's float32 merge."""
    save_tiny(family, tmp_path / "base")
    model = save_adapter(tmp_path / "adapter", family, target_modules=list(PROJECTIONS), rank_pattern={"up_proj": 7})
    base = open_checkpoint(tmp_path / "base")
    merged = MergedCheckpoint(base, read_adapter(tmp_path / "adapter", base.shape))
    reference = model.float().merge_and_unload().state_dict()
    assert merged.names() == base.names()
    for name in merged.names():
        ours, theirs = merged.tensor(name).astype(np.float32), reference[name].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=2**-8, atol=1e-6, err_msg=name)
        changed = not np.array_equal(bits(merged.tensor(name)), bits(base.tensor(name)))
        assert changed == (name.split(".")[-2] in PROJECTIONS and name.endswith(".weight")), name
        assert merged.tensor(name).dtype == ml_dtypes.bfloat16


def test_the_command_writes_a_model_that_answers_like_the_adapter(tmp_path: Path) -> None:
    """`manylora merge` output is an ordinary Hugging Face folder: transformers loads it and gets the adapter's logits."""
    save_tiny("qwen3", tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    model = save_adapter(tmp_path / "adapter", "qwen3", target_modules=list(PROJECTIONS), lora_alpha=32)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(tokens).logits
        adapted = model.float()(tokens).logits
        with model.disable_adapter():
            plain = model(tokens).logits
    assert (merged - adapted).abs().max() < 0.05 * (plain - adapted).abs().max()
