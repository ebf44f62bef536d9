"""From a request's text to token ids. Long texts are tokenised on another thread, so they hold up nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from manylora.errors import RequestError
from manylora.server.api.fields import Prompts
from manylora.server.base_model import BaseModel

_INLINE_CHARACTERS = 4096
"""Below this, tokenising takes less than handing the work to a thread would."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt as the engine takes it, and the text it came from, if it came as text."""

    tokens: list[int]
    text: str | None


async def tokenize(text: str, base: BaseModel, *, add_special_tokens: bool) -> TokenPrompt:
    """The token ids of a text. Raises RequestError if there are none."""
    if len(text) <= _INLINE_CHARACTERS:
        tokens = _encode(text, base, add_special_tokens)
    else:
        tokens = await asyncio.to_thread(_encode, text, base, add_special_tokens)
    if not tokens:
        raise RequestError("prompt is empty: the tokenizer makes no token of it", "prompt")
    return TokenPrompt(tokens, text)


def _encode(text: str, base: BaseModel, add_special_tokens: bool) -> list[int]:
    ids: list[int] = base.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


async def token_prompts(prompts: Prompts, base: BaseModel, *, add_special_tokens: bool) -> list[TokenPrompt]:
    """Every prompt of a completion request as token ids. Raises RequestError."""
    result: list[TokenPrompt] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            result.append(await tokenize(prompt, base, add_special_tokens=add_special_tokens))
            continue
        highest = max(prompt)
        if highest >= base.vocab:
            raise RequestError(f"prompt: token {highest} is not in the vocabulary of {base.vocab} tokens", "prompt")
        result.append(TokenPrompt(prompt, None))
    return result
