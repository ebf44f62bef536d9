"""What the engine refuses at arrival, so that nothing can fail half-way: prompts and parameters no kernel could work with."""

from __future__ import annotations

import math

from manylora.engine.sampling import MAX_TOP_LOGPROBS
from manylora.errors import RequestError
from manylora.types.request import Request, SamplingParams

SMALLEST_NORMAL = 2.0**-126
"""Of float32, in which the kernels compare."""


def check_request(request: Request, vocab: int, model_len: int) -> None:
    """Raises RequestError naming the field that a model of `vocab` tokens and `model_len` positions cannot serve."""
    prompt = request.prompt
    if not prompt:
        raise RequestError("the prompt is empty", "prompt")
    if len(prompt) >= model_len:
        raise RequestError(
            f"the prompt has {len(prompt)} tokens; with at least one new token it must stay within {model_len}", "prompt"
        )
    if min(prompt) < 0 or max(prompt) >= vocab:
        raise RequestError(f"the prompt has a token outside the vocabulary of {vocab}", "prompt")
    _check_sampling(request.sampling, vocab)


def _check_sampling(params: SamplingParams, vocab: int) -> None:
    if params.max_tokens is not None and params.max_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, not {params.max_tokens}", "max_tokens")
    _check_range("temperature", params.temperature, 0.0, 1e4)
    _check_range("top_p", params.top_p, SMALLEST_NORMAL, 1.0)
    _check_range("min_p", params.min_p, 0.0, 1.0)
    _check_range("top_k", params.top_k, 0, 2**31 - 1)
    _check_range("presence_penalty", params.presence_penalty, -1e4, 1e4)
    _check_range("frequency_penalty", params.frequency_penalty, -1e4, 1e4)
    _check_range("repetition_penalty", params.repetition_penalty, 1e-4, 1e4)
    for name in ("logprobs", "prompt_logprobs"):
        _check_range(name, getattr(params, name) or 0, 0, MAX_TOP_LOGPROBS)
    for token, bias in params.logit_bias.items():
        _check_range("logit_bias", token, 0, vocab - 1)
        _check_range("logit_bias", bias, -1e4, 1e4)
    for token in params.stop_token_ids:
        _check_range("stop_token_ids", token, 0, vocab - 1)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise RequestError(f"{name} must be between {low:g} and {high:g}, not {value!r}", name)
