"""Measure the demo's adapters with transformers and PEFT: every adapter, and the bare base, on every adapter's held-out prompts.

`python -m demo.evaluate` writes `demo/results.json` and prints the table that `demo/README.md` shows. Greedy answers, bfloat16
throughout, adapters as shipped; the adapters are never merged."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import data
from demo.prompts import greedy_answers
from demo.recipes import BASE_MODEL
from demo.report import BASE, SHARED_PROMPT, table

ROOT = Path(__file__).resolve().parent


def load(base: Path, adapters: Path) -> tuple[Any, Any]:
    """The base with every demo adapter beside it, unmerged, and the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for name in data.NAMES:
        folder = str(adapters / name)
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name, autocast_adapter_dtype=False)
    return model.to(torch.bfloat16).eval(), tokenizer


def answers_of(model: Any, tokenizer: Any, name: str, examples: list[data.Example]) -> list[str]:
    """Answers of adapter `name`, or of the bare base."""
    with contextlib.ExitStack() as stack:
        if name == BASE:
            stack.enter_context(model.disable_adapter())
        else:
            model.set_adapter(name)
        return greedy_answers(model, tokenizer, examples)


def measure(model: Any, tokenizer: Any, own: int, cross: int) -> dict[str, Any]:
    """Right answers of everyone on everyone's prompts (`own` prompts for its own adapter, `cross` for all others), and the
    answers to the shared prompt. All prompts of one adapter are answered in the same large batches."""
    right: dict[str, dict[str, dict[str, int]]] = {}
    shared: dict[str, str] = {}
    for answering in (BASE, *data.NAMES):
        asked = [(name, example) for name in data.NAMES for example in data.held_out(name, own if name == answering else cross)]
        examples = [*(example for _, example in asked), data.Example([{"role": "user", "content": SHARED_PROMPT}], "")]
        *answers, shared[answering] = answers_of(model, tokenizer, answering, examples)
        right[answering] = {name: {"right": 0, "of": 0} for name in data.NAMES}
        for (name, example), answer in zip(asked, answers, strict=True):
            good = data.correct(name, answer, example)
            right[answering][name]["right"] += good
            right[answering][name]["of"] += 1
            if name == answering and not good:
                print(f"{name} wanted {example.answer!r}\n{' ' * len(name)} got    {answer!r}", flush=True)
        print(f"{answering}: {right[answering]}", flush=True)
    return {
        "base_model": BASE_MODEL,
        "decoding": "greedy, transformers and PEFT in bfloat16, adapters unmerged",
        "right": right,
        "shared_prompt": {"prompt": SHARED_PROMPT, "answers": shared},
    }


def main() -> None:
    """Measure all and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", type=Path, default=ROOT.parent / ".models" / BASE_MODEL, help="folder of the base model (default: %(default)s)"
    )
    parser.add_argument("--adapters", type=Path, default=ROOT / "adapters", help="folder of the adapters (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results.json", help="where results are written (default: %(default)s)"
    )
    parser.add_argument("--own", type=int, default=100, help="held-out prompts for an adapter's own set (default: %(default)s)")
    parser.add_argument("--cross", type=int, default=30, help="held-out prompts for anyone else's set (default: %(default)s)")
    options = parser.parse_args()
    model, tokenizer = load(options.base, options.adapters)
    results = measure(model, tokenizer, options.own, options.cross)
    options.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
