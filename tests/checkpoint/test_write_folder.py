"""What is written is a model that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from manylora.engine.checkpoint import open_checkpoint, write_hf_folder
from manylora.errors import ConfigError, ModelError
from tests.checkpoint.tiny_models import FAMILIES, save_tiny
from tests.checkpoint.tiny_tokenizers import save_tokenizer


@pytest.mark.parametrize("family", list(FAMILIES))
def test_transformers_computes_the_same_with_what_is_written(family: str, tmp_path: Path) -> None:
    """Config, weights and tokenizer survive the round trip: equal logits, bit for bit, for every family and rope scaling."""
    save_tiny(family, tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    write_hf_folder(open_checkpoint(tmp_path / "in"), tmp_path / "out")
    model, written = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("in", "out"))
    assert written.dtype == torch.bfloat16
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(written(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("in", "out"))
    chat = [{"role": "user", "content": "the lazy dog"}]
    assert after.apply_chat_template(chat)["input_ids"] == before.apply_chat_template(chat)["input_ids"]
    assert after.special_tokens_map == before.special_tokens_map
    assert open_checkpoint(tmp_path / "out").eos_token_ids == open_checkpoint(tmp_path / "in").eos_token_ids


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with anything in it is left alone."""
    save_tiny("llama", tmp_path)
    with pytest.raises(ConfigError, match="not empty"):
        write_hf_folder(open_checkpoint(tmp_path), tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """A folder that exists is complete, whether the tokenizer is missing or the weights stop half-way."""
    save_tiny("llama", tmp_path / "in")
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        write_hf_folder(open_checkpoint(tmp_path / "in"), tmp_path / "out")
    save_tokenizer(tmp_path / "in")

    def stop_half_way(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hf_folder(open_checkpoint(tmp_path / "in"), tmp_path / "out", stop_half_way)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
