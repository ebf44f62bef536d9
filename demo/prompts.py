"""From conversations to token batches, and from a model to answers: what training and evaluation share."""

from __future__ import annotations

from typing import Any

import torch

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


@torch.inference_mode()
def greedy_answers(model: Any, tokenizer: Any, examples: list[Example], batch: int = 128) -> list[str]:
    """The model's greedy answers, in order; generated in batches padded on the left."""
    answers: list[str] = []
    pad = tokenizer.pad_token_id
    for start in range(0, len(examples), batch):
        rows = [prompt_ids(tokenizer, example) for example in examples[start : start + batch]]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=MOST_NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=pad,
        )
        answers += tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    return answers
