"""Train the demo's adapters with PEFT on the data of `demo.data`: `python -m demo.train` for all, or with names for some.

Runs on CPUs: everything computes in bfloat16, as the adapters are shipped, with float32 masters of their weights. Seeded:
the same machine, versions and thread count give the same adapters."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import data
from demo.prompts import IGNORED, greedy_answers, training_batch
from demo.recipes import BASE_MODEL, RECIPES, Recipe

ROOT = Path(__file__).resolve().parent
VALIDATED = 40


def batches(examples: list[data.Example], recipe: Recipe) -> Iterator[list[data.Example]]:
    """`recipe.steps` batches, from shuffled passes over the examples."""
    shuffle = random.Random(recipe.seed)
    queue: list[data.Example] = []
    for _ in range(recipe.steps):
        while len(queue) < recipe.batch:
            queue += shuffle.sample(examples, len(examples))
        yield queue[: recipe.batch]
        del queue[: recipe.batch]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up over a tenth of the steps, then a cosine to zero."""
    warm = max(1, recipe.steps // 10)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (recipe.steps - warm)))


def answer_loss(model: Any, tokenizer: Any, examples: list[data.Example]) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens. The tokens that open every prompt (the template's system message) are computed
    once for the batch, and the vocabulary product, a fifth of the model, only for the answers."""
    ids, mask, labels = training_batch(tokenizer, examples)
    shared = int((ids == ids[0]).all(dim=0).long().cumprod(dim=0).sum())
    past = model.model(input_ids=ids[:1, :shared], use_cache=True).past_key_values
    past.batch_repeat_interleave(len(examples))
    hidden = model.model(input_ids=ids[:, shared:], attention_mask=mask, past_key_values=past).last_hidden_state[:, :-1]
    wanted = labels[:, shared + 1 :]
    labelled = wanted != IGNORED
    return cross_entropy(model.lm_head(hidden[labelled]).float(), wanted[labelled])


def update(weights: list[torch.nn.Parameter], masters: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step on the float32 masters, from the gradients of the bfloat16 weights, which follow the masters rounded."""
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    for weight, master in zip(weights, masters, strict=True):
        assert weight.grad is not None
        master.grad = weight.grad.float()
        weight.grad = None
    optimizer.step()
    with torch.no_grad():
        for weight, master in zip(weights, masters, strict=True):
            weight.copy_(master)


def save(adapter: Any, recipe: Recipe, folder: Path) -> None:
    """Write a PEFT folder: the tensors in bfloat16, the configuration with sorted keys and no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in get_peft_model_state_dict(adapter).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapter.peft_config["default"]
    config.base_model_name_or_path = BASE_MODEL
    config.inference_mode = True
    config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = list(recipe.lora["target_modules"])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def train(name: str, base: Path, out: Path) -> None:
    """Train one adapter and write it to `out`/name."""
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    # Eager attention: for rows as short as these the backward pass of the fused one costs more than it saves.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation="eager")
    adapter = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.lora))
    weights = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    masters = [weight.detach().clone().float() for weight in weights]
    adapter.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(masters, lr=recipe.learning_rate, weight_decay=0.0)
    learned = data.training(name, recipe.examples + VALIDATED)
    examples, validation = learned[: recipe.examples], learned[recipe.examples :]
    started = time.monotonic()
    adapter.train()
    for step, batch in enumerate(batches(examples, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = answer_loss(model, tokenizer, batch)
        torch.autograd.backward(loss)
        update(weights, masters, optimizer)
        if step % 10 == 9 or step < 3:
            print(f"{name} step {step + 1}/{recipe.steps} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
    save(adapter, recipe, out / name)
    adapter.eval()
    answers = greedy_answers(adapter, tokenizer, validation)
    right = sum(data.correct(name, answer, example) for answer, example in zip(answers, validation, strict=True))
    print(f"{name}: {right} of {len(validation)} validation answers right, {time.monotonic() - started:.0f} s", flush=True)
    for answer, example in zip(answers, validation, strict=True):
        if not data.correct(name, answer, example):
            print(f"  wanted {example.answer!r}\n  got    {answer!r}", flush=True)


def main() -> None:
    """Train the adapters named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which adapters to train, of {', '.join(RECIPES)} (default: all)")
    parser.add_argument(
        "--base", type=Path, default=ROOT.parent / ".models" / BASE_MODEL, help="folder of the base model (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "adapters", help="where adapters are written (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"no recipe for {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for name in options.names or RECIPES:
        train(name, options.base, options.out)


if __name__ == "__main__":
    main()
