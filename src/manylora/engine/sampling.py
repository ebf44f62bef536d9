"""Turns logits into tokens: masks, penalties and biases per request, then the native sampler for all rows at once."""

from __future__ import annotations

import numpy as np

from manylora import kernels
from manylora.engine.track import Track
from manylora.types.request import TokenLogprob

MAX_TOP_LOGPROBS = 20
"""The OpenAI API's limit."""

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit integers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) that picks the token at `position`: a function of its arguments and nothing else."""
    return (_mix(_mix(_mix(seed & _MASK) ^ choice) ^ position) >> 11) * 2.0**-53


class Sampler:
    """Samples up to `max_rows` rows of logits. Each row is treated by itself, so its token does not depend on the others."""

    def __init__(self, runtime: kernels.Runtime, max_rows: int) -> None:
        self._runtime = runtime
        self._native = kernels.Sampler(max_rows, MAX_TOP_LOGPROBS)

    def sample(self, logits: kernels.Matrix, tracks: list[Track]) -> list[tuple[int, TokenLogprob | None]]:
        """The next token of each track, from its row of the logits, with its log-probability where asked for."""
        rows, sampler = len(tracks), self._native
        wanted = [row for row, track in enumerate(tracks) if track.params.logprobs is not None]
        if wanted:
            sampler.top_count[:rows] = [track.params.logprobs or 0 for track in tracks]
            kernels.logprobs(self._runtime, rows, logits, sampler)
        raw: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for row, track in enumerate(tracks):
            params = track.params
            sampler.temperature[row] = params.temperature
            if params.temperature > 0:
                sampler.top_k[row] = params.top_k
                sampler.top_p[row] = params.top_p
                sampler.min_p[row] = params.min_p
                sampler.uniform[row] = uniform(params.seed, params.choice, track.generated)
            if _adjusts(track):
                raw[row] = _adjust(logits.array[row], track)
        kernels.sample(self._runtime, rows, logits, sampler)
        tokens: list[int] = sampler.token[:rows].tolist()
        logprobs = {row: self._logprob(logits, row, tokens[row], raw.get(row)) for row in wanted}
        return [(token, logprobs.get(row)) for row, token in enumerate(tokens)]

    def score(self, logits: kernels.Matrix, tokens: list[int], top: list[int]) -> list[TokenLogprob]:
        """Log-probability of given tokens, one per row, with the `top[row]` most likely ones."""
        rows, sampler = len(tokens), self._native
        sampler.top_count[:rows] = top
        kernels.logprobs(self._runtime, rows, logits, sampler)
        return [self._logprob(logits, row, token, None) for row, token in enumerate(tokens)]

    def _logprob(self, logits: kernels.Matrix, row: int, token: int, raw: tuple[np.ndarray, np.ndarray] | None) -> TokenLogprob:
        sampler = self._native
        value = logits.array[row, token]
        if raw is not None:
            (changed,) = np.nonzero(raw[0] == token)
            value = raw[1][changed[0]] if len(changed) else value
        count = sampler.top_count[row]
        top = zip(sampler.top_tokens[row, :count].tolist(), sampler.top_logprobs[row, :count].tolist(), strict=True)
        return TokenLogprob(token, float(value - sampler.normalizer[row]), list(top))


def _adjusts(track: Track) -> bool:
    params = track.params
    masks = track.generated < params.min_tokens and params.stop_token_ids
    return bool(track.occurrences is not None or params.logit_bias or masks)


def _adjust(logits: np.ndarray, track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Applies penalties, biases and masks to one row in place; returns the tokens it changed and their raw logits.

    Repetition (Keskar et al., CTRL, 2019) looks at prompt and answer; presence and frequency, as in the OpenAI API, only at the
    answer."""
    params, known = track.params, track.occurrences
    bias = np.fromiter(params.logit_bias, np.int64, len(params.logit_bias))
    stops = np.asarray(params.stop_token_ids if track.generated < params.min_tokens else (), np.int64)
    changed = np.concatenate([bias, stops] if known is None else [known.tokens, bias, stops])
    raw = logits[changed]
    if known is not None:
        values, counts = logits[known.tokens], known.counts
        if params.repetition_penalty != 1.0:
            penalty = np.float32(params.repetition_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
        answered = np.float32(params.frequency_penalty) * counts + np.float32(params.presence_penalty) * (counts > 0)
        logits[known.tokens] = values - answered
    logits[bias] += np.fromiter(params.logit_bias.values(), np.float32, len(bias))
    logits[stops] = -np.inf
    return changed, raw
