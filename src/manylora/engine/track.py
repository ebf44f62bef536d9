"""What the engine knows of one request beyond what the policy may know: its tokens, its adapter's handle, its content keys."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from manylora import kernels
from manylora.policy.kv_blocks import BLOCK_TOKENS
from manylora.types.request import Request, SamplingParams, TokenLogprob

KEY_BYTES = 16


class Occurrences:
    """The distinct known tokens of a request, and how often its answer has each: kept as tokens come, not counted every step."""

    def __init__(self, prompt: list[int], capacity: int) -> None:
        self._place: dict[int, int] = {}
        self._tokens = np.empty(capacity, np.int64)
        self._counts = np.zeros(capacity, np.float32)
        for token in prompt:
            self._find(token)

    def add(self, token: int) -> None:
        """The answer has one more of this token."""
        self._counts[self._find(token)] += 1

    @property
    def tokens(self) -> np.ndarray:
        """int64 [distinct]: a view."""
        return self._tokens[: len(self._place)]

    @property
    def counts(self) -> np.ndarray:
        """float32 [distinct], of the answer: a view."""
        return self._counts[: len(self._place)]

    def _find(self, token: int) -> int:
        place = self._place.setdefault(token, len(self._place))
        self._tokens[place] = token
        return place


class Track:
    """One request from arrival to its terminal output."""

    def __init__(self, request: Request, handle: kernels.Adapter | None, final: int) -> None:
        self.request = request
        self.params: SamplingParams = request.sampling
        self.handle = handle
        self.prompt_length = len(request.prompt)
        self.final = final
        """Tokens it can ever know: it ends by length when `length` gets there."""
        self.tokens = np.empty(final, np.int32)
        self.tokens[: self.prompt_length] = request.prompt
        self.length = self.prompt_length
        self.stops = frozenset(request.sampling.stop_token_ids)
        self.slot = -1
        """Its row of the block tables while it runs."""
        self.held_blocks = 0
        self.cached_tokens: int | None = None
        """Prompt tokens from the prefix cache at its first admission."""
        self.prompt_logprobs: list[TokenLogprob | None] | None = None if request.sampling.prompt_logprobs is None else [None]
        sampling = request.sampling
        penalised = sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        self.occurrences = Occurrences(request.prompt, final) if penalised else None
        self._last_key = blake2b((request.adapter or "base").encode(), digest_size=KEY_BYTES).digest()
        self._keyed = 0

    def new_keys(self) -> list[bytes]:
        """Content keys of the full known blocks since the last call. A key hashes the adapter version and all tokens up to the
        block's end, so equal keys mean equal keys and values, bit for bit."""
        keys = []
        while (self._keyed + 1) * BLOCK_TOKENS <= self.length:
            block = self.tokens[self._keyed * BLOCK_TOKENS : (self._keyed + 1) * BLOCK_TOKENS]
            self._last_key = blake2b(self._last_key + block.tobytes(), digest_size=KEY_BYTES).digest()
            keys.append(self._last_key)
            self._keyed += 1
        return keys

    @property
    def generated(self) -> int:
        """New tokens so far."""
        return self.length - self.prompt_length

    @property
    def history(self) -> np.ndarray:
        """Every known token, int32: a view."""
        return self.tokens[: self.length]

    def append(self, token: int) -> None:
        """The next token is decided."""
        self.tokens[self.length] = token
        self.length += 1
        if self.occurrences is not None:
            self.occurrences.add(token)
