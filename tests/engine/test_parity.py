"""Teacher-forced parity with transformers and PEFT in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from manylora.engine.config import QUANTIZATIONS
from tests.checkpoint.tiny_models import FAMILIES, SIZES
from tests.engine.harness import CAPABILITIES
from tests.engine.teacher import Ours, Reference, divergence

ROOT = Path(__file__).resolve().parents[2]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "r16 all": {"r": 16, "lora_alpha": 32, "target_modules": ALL},
    "r8 qv": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "r4 mlp": {"r": 4, "lora_alpha": 4, "target_modules": ["gate_proj", "up_proj", "down_proj"]},
    "r32 attention": {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "r64 rslora": {"r": 64, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]},
    "r5 odd rank": {"r": 5, "lora_alpha": 12, "target_modules": ALL},
    "patterns": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ALL,
        "rank_pattern": {"layers.0.self_attn.q_proj": 3, "down_proj": 12},
        "alpha_pattern": {"v_proj": 40},
    },
    "some layers": {"r": 16, "lora_alpha": 48, "target_modules": ["o_proj", "down_proj"], "layers_to_transform": [0, 7, 29]},
}
POSITIONS_EACH = 264


def real_text() -> str:
    """The project's own prose."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def write_adapter(base: Any, config: dict[str, Any], folder: Path) -> Path:
    """A PEFT adapter saved by PEFT, its B matrices random, its values bfloat16, its effect as large as training's."""
    torch.manual_seed(len(folder.name))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                values = torch.randn_like(parameter) * 0.2 / parameter.shape[1] ** 0.5 if "lora_B" in name else parameter
                parameter.copy_(values.to(torch.bfloat16).to(parameter.dtype))
    model.save_pretrained(folder)
    model.unload()
    return folder


def test_parity_on_smollm2_with_eight_adapters(smollm2: Path, tmp_path: Path) -> None:
    """On over 2,000 positions of real text: mean KL at most 1e-3 nats, top-1 agreement at least 96.5 %, and both better than
    transformers in bfloat16 on the same positions."""
    tokens = Tokenizer.from_file(str(smollm2 / "tokenizer.json")).encode(real_text()).ids
    assert len(tokens) >= POSITIONS_EACH * len(ADAPTERS), "the project's prose is too short for this test"
    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    ours = Ours(smollm2, tmp_path, CAPABILITIES[-1])
    exact, rough = Reference(smollm2, torch.float32), Reference(smollm2, torch.bfloat16)
    kl, agree, rounded_kl, rounded_agree = ([] for _ in range(4))
    for number, (name, config) in enumerate(ADAPTERS.items()):
        adapter = write_adapter(base, config, tmp_path / name)
        text = tokens[number * POSITIONS_EACH : (number + 1) * POSITIONS_EACH]
        oracle, got, rounded = (source.logits(text, adapter) for source in (exact, ours, rough))
        effect = divergence(oracle, exact.logits(text, None)).mean()
        assert effect > 3e-3, f"{name} hardly acts: {effect:.1e}"
        kl.append(divergence(oracle, got))
        agree.append(oracle.argmax(-1) == got.argmax(-1))
        rounded_kl.append(divergence(oracle, rounded))
        rounded_agree.append(oracle.argmax(-1) == rounded.argmax(-1))
    mean_kl, top1 = np.concatenate(kl).mean(), np.concatenate(agree).mean()
    print(f"KL {mean_kl:.2e} (bfloat16 oracle {np.concatenate(rounded_kl).mean():.2e})", end=", ")
    print(f"top-1 {top1:.2%} (bfloat16 oracle {np.concatenate(rounded_agree).mean():.2%}), {np.concatenate(kl).size} positions")
    assert mean_kl <= 1e-3
    assert top1 >= 0.965
    assert mean_kl < np.concatenate(rounded_kl).mean()
    assert top1 > np.concatenate(rounded_agree).mean()


def test_int8_weights_cost_at_most_one_percent_of_perplexity(smollm2: Path, tmp_path: Path) -> None:
    """Over all of the project's prose, in texts of 500 tokens, base model: perplexity within 1 % of bfloat16 weights, and top-1
    agreement with them at least 94 %."""
    tokens = Tokenizer.from_file(str(smollm2 / "tokenizer.json")).encode(real_text()).ids
    losses, choices = ([[], []] for _ in range(2))
    for number, quantization in enumerate(QUANTIZATIONS):
        ours = Ours(smollm2, tmp_path, CAPABILITIES[-1], quantization)
        for first in range(0, len(tokens), 500):
            text = tokens[first : first + 500]
            logits = ours.logits(text, None)
            normalizers = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
            losses[number].append((normalizers - logits[np.arange(len(text)), [*text[1:], 0]])[:-1])
            choices[number].append(logits.argmax(-1))
    plain, rounded = (np.concatenate(loss).mean() for loss in losses)
    perplexity, top1 = np.exp(rounded - plain), (np.concatenate(choices[0]) == np.concatenate(choices[1])).mean()
    print(f"int8: perplexity {np.exp(plain):.2f} {perplexity - 1:+.2%}, top-1 agreement {top1:.2%}, {len(tokens)} positions")
    assert abs(perplexity - 1) <= 0.01
    assert top1 >= 0.94


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_parity_of_every_family_on_every_instruction_set(family: str, capability: str, tmp_path: Path) -> None:
    """A tiny random model of each supported family, with an adapter on all projections, answers as transformers does."""
    config_class, model_class, extra = FAMILIES[family]
    sizes = SIZES | {"vocab_size": 384, "hidden_size": 128, "intermediate_size": 176, "max_position_embeddings": 512} | extra
    torch.manual_seed(1)
    model = model_class(config_class(**(sizes | {"head_dim": 32, "initializer_range": 0.08})))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if "norm" in name else 0.0
            values = torch.randn_like(parameter) * 0.1 + offset if "norm" in name or name.endswith("bias") else parameter
            parameter.copy_(values.to(torch.bfloat16))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    config = {"r": 7, "lora_alpha": 14, "target_modules": ALL}
    adapter = write_adapter(model_class.from_pretrained(tmp_path / "model", dtype=torch.float32), config, tmp_path / "adapter")
    limit = extra.get("sliding_window", 300)
    tokens = np.random.default_rng(2).integers(0, sizes["vocab_size"], min(limit, 300)).tolist()
    ours = Ours(tmp_path / "model", tmp_path, capability)
    exact, rough = (Reference(tmp_path / "model", dtype) for dtype in (torch.float32, torch.bfloat16))
    for folder in (None, adapter):
        oracle, got, rounded = (source.logits(tokens, folder) for source in (exact, ours, rough))
        assert divergence(oracle, got).mean() <= 1e-3
        assert divergence(oracle, got).mean() < divergence(oracle, rounded).mean()
        assert (oracle.argmax(-1) == got.argmax(-1)).mean() >= 0.965
