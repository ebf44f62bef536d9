"""Measure the demo's adapters with transformers and PEFT: every adapter, and the bare base, on every adapter's held-out prompts.

`python -m demo.evaluate` writes `demo/results.json` and prints the table that `demo/README.md` shows. Greedy answers, bfloat16
throughout, adapters as shipped; the adapters are never merged."""

from __future__ import annotations

import argparse
import functools
import hashlib
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


def switch(model: Any, name: str) -> None:
    """Make adapter `name` answer, or the bare base."""
    if name == BASE:
        model.base_model.disable_adapter_layers()
    else:
        model.base_model.enable_adapter_layers()
        model.set_adapter(name)


def right_answers(model: Any, tokenizer: Any, asked: str, examples: list[data.Example], show: bool) -> int:
    """How many of adapter `asked`'s examples are answered right; with `show`, wrong answers are printed in full."""
    hopeless = None if show else functools.partial(_hopeless, asked)
    answers = greedy_answers(model, tokenizer, examples, hopeless)
    right = 0
    for example, answer in zip(examples, answers, strict=True):
        if data.correct(asked, answer, example):
            right += 1
        elif show:
            print(f"{asked} wanted {example.answer!r}\n{' ' * len(asked)} got    {answer!r}", flush=True)
    return right


def _hopeless(asked: str, example: data.Example, begun: str) -> bool:
    return data.hopeless(asked, begun, example)


def measure(model: Any, tokenizer: Any, own: int, cross: int) -> dict[str, Any]:
    """Right answers of everyone on everyone's prompts (`own` prompts for its own adapter, `cross` for all others), and the
    answers to the shared prompt."""
    right: dict[str, dict[str, dict[str, int]]] = {}
    shared: dict[str, str] = {}
    for answering in (BASE, *data.NAMES):
        switch(model, answering)
        right[answering] = {}
        for asked in data.NAMES:
            examples = data.held_out(asked, own if asked == answering else cross)
            good = right_answers(model, tokenizer, asked, examples, show=asked == answering)
            right[answering][asked] = {"right": good, "of": len(examples)}
            print(f"{answering} on {asked}: {good} of {len(examples)}", flush=True)
        [shared[answering]] = greedy_answers(model, tokenizer, [data.Example([{"role": "user", "content": SHARED_PROMPT}], "")])
    return {
        "base_model": BASE_MODEL,
        "decoding": "greedy, transformers and PEFT in bfloat16, adapters unmerged",
        "right": right,
        "shared_prompt": {"prompt": SHARED_PROMPT, "answers": shared},
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex: which bytes the results are about."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    results["sha256"] = {name: file_hash(options.adapters / name / "adapter_model.safetensors") for name in data.NAMES}
    options.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
