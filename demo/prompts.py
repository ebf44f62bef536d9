"""From conversations to token batches, and from a model to answers: what training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from demo.data import Example

IGNORED = -100
MOST_NEW_TOKENS = 72


def prompt_ids(tokenizer: Any, example: Example) -> list[int]:
    """The tokens a server feeds for this conversation: the model's own chat template, ready for the assistant's turn."""
    text = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def training_batch(tokenizer: Any, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and labels, each [examples, longest]; padded on the right, only answers are labelled."""
    rows = []
    for example in examples:
        prompt = prompt_ids(tokenizer, example)
        answer = [*tokenizer(example.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append((prompt + answer, [IGNORED] * len(prompt) + answer))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens, _ in rows])
    mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in rows])
    labels = torch.tensor([marks + [IGNORED] * (longest - len(marks)) for _, marks in rows])
    return ids, mask, labels


class Hopeless(StoppingCriteria):
    """Ends a row of a batch as soon as `hopeless(example, answer so far)`. The rows are `examples`, after `prompt` tokens."""

    def __init__(self, tokenizer: Any, prompt: int, examples: list[Example], hopeless: Callable[[Example, str], bool]) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.examples = examples
        self.hopeless = hopeless

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Which rows of `input_ids` [rows, tokens] are over, as bool [rows]."""
        begun = self.tokenizer.batch_decode(input_ids[:, self.prompt :], skip_special_tokens=True)
        return torch.tensor([self.hopeless(example, text) for example, text in zip(self.examples, begun, strict=True)])


@torch.inference_mode()
def greedy_answers(
    model: Any,
    tokenizer: Any,
    examples: list[Example],
    hopeless: Callable[[Example, str], bool] | None = None,
    batch: int = 64,
) -> list[str]:
    """The model's greedy answers, in order; generated in batches padded on the left. With `hopeless`, an answer is cut short
    where its beginning makes that true."""
    answers: list[str] = []
    pad = tokenizer.pad_token_id
    for start in range(0, len(examples), batch):
        asked = examples[start : start + batch]
        rows = [prompt_ids(tokenizer, example) for example in asked]
        longest = max(map(len, rows))
        criteria = StoppingCriteriaList()
        if hopeless is not None:
            criteria.append(Hopeless(tokenizer, longest, asked, hopeless))
        out = model.generate(
            input_ids=torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
            attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
            do_sample=False,
            max_new_tokens=MOST_NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=pad,
            stopping_criteria=criteria,
        )
        answers += tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    return answers
