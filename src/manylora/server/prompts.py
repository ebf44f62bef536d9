"""From a request's text to token ids. What cannot fit is refused before any work; long texts are tokenised on another thread,
without the interpreter's lock, so they hold up nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from manylora.errors import RequestError
from manylora.server.api.fields import Prompts
from manylora.server.base_model import BaseModel
from manylora.server.error_map import too_long

_INLINE_CHARACTERS = 4096
"""Below this, tokenising takes less than handing the work to a thread would."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt as the engine takes it, and the text it came from, if it came as text."""

    tokens: list[int]
    text: str | None


def check_characters(characters: int, base: BaseModel, limit: int, param: str) -> None:
    """Raises InvalidRequest for a text that is too long for a context of `limit` tokens, whatever it says."""
    if characters > limit * base.characters_per_token:
        raise too_long(
            f"{param} has {characters} characters; this model takes fewer than {limit} tokens (max_model_len), "
            f"none of more than {base.characters_per_token} characters",
            param,
        )


def check_tokens(count: int, limit: int, param: str) -> None:
    """Raises InvalidRequest for a prompt that leaves no room for a new token in a context of `limit` tokens."""
    if count >= limit:
        raise too_long(f"the prompt has {count} tokens; this model takes fewer than {limit} (max_model_len)", param)


async def tokenize(text: str, base: BaseModel, *, add_special_tokens: bool, limit: int, param: str = "prompt") -> TokenPrompt:
    """The token ids of a text. Raises RequestError if there are none, or if they cannot fit into `limit` tokens."""
    check_characters(len(text), base, limit, param)
    if len(text) <= _INLINE_CHARACTERS:
        tokens: list[int] = base.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    else:
        tokens = await asyncio.to_thread(_encode, text, base, add_special_tokens)
    if not tokens:
        raise RequestError(f"{param} is empty: the tokenizer makes no token of it", param)
    check_tokens(len(tokens), limit, param)
    return TokenPrompt(tokens, text)


def _encode(text: str, base: BaseModel, add_special_tokens: bool) -> list[int]:
    """As `Tokenizer.encode`, but that one keeps the interpreter's lock to the end; only the batch's form gives it back."""
    ids: list[int] = base.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


async def token_prompts(prompts: Prompts, base: BaseModel, *, add_special_tokens: bool, limit: int) -> list[TokenPrompt]:
    """Every prompt of a completion request as token ids. Raises RequestError."""
    for prompt in prompts:
        if isinstance(prompt, str):
            check_characters(len(prompt), base, limit, "prompt")
    result: list[TokenPrompt] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            result.append(await tokenize(prompt, base, add_special_tokens=add_special_tokens, limit=limit))
            continue
        highest = max(prompt)
        if highest >= base.vocab:
            raise RequestError(f"prompt: token {highest} is not in the vocabulary of {base.vocab} tokens", "prompt")
        result.append(TokenPrompt(prompt, None))
    return result
