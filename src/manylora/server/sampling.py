"""From a request body to the engine's SamplingParams: defaults filled in, limits of this model checked, one place."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from manylora.errors import RequestError
from manylora.server.api.requests import ChatCompletionRequest, CompletionRequest, SamplingBody
from manylora.server.base_model import BaseModel
from manylora.server.error_map import too_long
from manylora.server.prompts import check_tokens
from manylora.server.text.answer import TextOptions
from manylora.types.request import SamplingParams

_LEAST_TOP_P = 1e-30
"""Smaller values mean the same (only the most likely token is kept), but the engine's float32 could not tell them from 0."""
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions. Chat has none: it ends at the model's end token or at the context limit."""


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """New tokens that were asked for. `explicit`: by the caller, so that a prompt that leaves less room is refused."""

    tokens: int | None
    explicit: bool
    param: str = "prompt"
    """The field the prompt came in."""

    def fit(self, prompt: int, limit: int) -> int | None:
        """New tokens at most after a prompt of that length, in a context of `limit` tokens. Raises InvalidRequest."""
        check_tokens(prompt, limit, self.param)
        if self.tokens is None:
            return None
        wanted = max(self.tokens, 1)
        if self.explicit and prompt + wanted > limit:
            raise too_long(
                f"the prompt has {prompt} tokens and max_tokens is {self.tokens}: together {prompt + self.tokens}, "
                f"more than the {limit} this model takes (max_model_len)",
                self.param,
            )
        return min(wanted, limit - prompt)


def token_budget(body: SamplingBody) -> TokenBudget:
    """How many new tokens a request asks for."""
    if isinstance(body, ChatCompletionRequest):
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        return TokenBudget(asked, explicit=asked is not None, param="messages")
    if body.max_tokens is not None:
        return TokenBudget(body.max_tokens, explicit=True)
    return TokenBudget(max(COMPLETION_MAX_TOKENS, body.min_tokens or 0), explicit=bool(body.min_tokens))


def text_options(body: SamplingBody) -> TextOptions:
    """How the answer's tokens become text."""
    return TextOptions(
        stop=body.stop,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special=body.skip_special_tokens is not False,
        min_tokens=body.min_tokens or 0,
        stop_tokens=frozenset(body.stop_token_ids),
    )


def sampling_params(body: SamplingBody, base: BaseModel) -> SamplingParams:
    """The parameters all answers of a request share; `max_tokens` and `choice` are set for each. Raises RequestError."""
    stop_tokens = body.stop_token_ids
    for token in stop_tokens:
        _check_token(token, base.vocab, "stop_token_ids")
    for token in body.logit_bias:
        _check_token(token, base.vocab, "logit_bias")
    end_tokens = () if body.ignore_eos else base.eos_token_ids
    logprobs = _logprobs(body)
    scores_prompt = isinstance(body, CompletionRequest) and body.echo and logprobs is not None
    return SamplingParams(
        temperature=_given(body.temperature, 1.0),
        top_p=max(_given(body.top_p, 1.0), _LEAST_TOP_P),
        top_k=min(max(0, body.top_k or 0), base.vocab),
        min_p=_given(body.min_p, 0.0),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        logit_bias=body.logit_bias,
        seed=secrets.randbits(63) if body.seed is None else body.seed % (1 << 63),
        stop_token_ids=tuple(dict.fromkeys((*end_tokens, *stop_tokens))),
        min_tokens=body.min_tokens or 0,
        logprobs=logprobs,
        prompt_logprobs=logprobs if scores_prompt else None,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _logprobs(body: SamplingBody) -> int | None:
    if isinstance(body, CompletionRequest):
        return body.logprobs
    if isinstance(body, ChatCompletionRequest) and body.logprobs:
        return body.top_logprobs or 0
    return None


def _check_token(token: int, vocab: int, param: str) -> None:
    if token >= vocab:
        raise RequestError(f"{param}: token {token} is not in the vocabulary of {vocab} tokens", param)
