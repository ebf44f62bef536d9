"""What a caller asks of an engine, and what comes back, in token ids only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Defaults are those of the OpenAI API and of vLLM."""

    max_tokens: int | None = None
    """New tokens at most; None means up to the context limit."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Candidates at most; 0 keeps all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    """Randomness is a function of (seed, choice, position) and nothing else."""
    choice: int = 0
    """Which of the `n` answers to one prompt this is."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, the model's own end tokens included unless they are to be ignored."""
    min_tokens: int = 0
    """Stop tokens cannot be chosen before this many new tokens."""
    logprobs: int | None = None
    """None: no log-probabilities. k >= 0: that of each chosen token, and the k most likely beside it."""
    prompt_logprobs: int | None = None
    """The same for the prompt's own tokens (the first has none)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate. `adapter` is a version hash; None is the base model."""

    id: str
    prompt: list[int]
    sampling: SamplingParams
    adapter: str | None = None
    tenant: str = ""
    """Whose share of the machine this uses."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (nats, from the raw logits) of one token, and of the most likely ones, best first, ties by token id."""

    token: int
    logprob: float
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one engine step added to one request. The last one has a finish reason; every request gets exactly one such."""

    id: str
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    """One per token, when asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Once, with the first tokens, when asked for."""
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    """The stop token that ended the answer; it is the last of `tokens`."""
    error: str | None = None
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache; every output of a request says the same number."""
