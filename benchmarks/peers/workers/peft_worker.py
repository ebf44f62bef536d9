"""Answers batches with transformers and PEFT, one line of JSON in and one out.

    peft_worker.py MODEL_FOLDER THREADS [NAME=ADAPTER_FOLDER ...]

In: {"prompts": [[token, ...], ...], "adapters": [name or null, ...], "output": tokens}; prompts of equal length.
Out: first {"ready": true}; then {"seconds": [since the batch was read, one a step], "tokens": [new tokens of each prompt]}."""

from __future__ import annotations

import json
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def load(folder: str, adapters: list[str]) -> torch.nn.Module:
    """The base, wrapped only if there are adapters: the wrapper costs time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    for place, pair in enumerate(adapters):
        name, _, path = pair.partition("=")
        if place == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name=name)
        else:
            model.load_adapter(path, adapter_name=name)
    return model.eval()


@torch.inference_mode()
def answer(model: torch.nn.Module, batch: dict, wrapped: bool) -> dict:
    """One static batch, greedy. Every step's time is taken by a stopping criterion that never stops."""
    began = time.perf_counter()
    seconds: list[float] = []

    def tick(ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        seconds.append(time.perf_counter() - began)
        return torch.zeros(len(ids), dtype=torch.bool)

    prompts = torch.tensor(batch["prompts"])
    options = {"adapter_names": [name or "__base__" for name in batch["adapters"]]} if wrapped else {}
    generated = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=batch["output"],
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=[tick],
        **options,
    )
    new = generated.shape[1] - prompts.shape[1]
    return {"seconds": seconds, "tokens": [new] * len(prompts)}


def main() -> None:
    """Loads, says so, answers until its input ends."""
    folder, threads, *adapters = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = load(folder, adapters)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(model, json.loads(line), bool(adapters))), flush=True)


if __name__ == "__main__":
    main()
