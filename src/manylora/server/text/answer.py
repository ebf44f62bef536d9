"""One answer as it grows: engine outputs in, text out, with stop strings applied and token log-probabilities aligned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manylora.server.text.detokenize import Detokenizer
from manylora.server.text.stop_strings import StopMatcher
from manylora.server.text.token_bytes import TokenBytes
from manylora.types.request import RequestOutput, TokenLogprob

Ending = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What a request says about turning tokens into text."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special: bool = True
    min_tokens: int = 0
    stop_tokens: frozenset[int] = frozenset()
    """Those the caller named: only they are worth telling back as the reason of a stop."""


@dataclass(slots=True)
class ScoredToken:
    """A token with its log-probabilities and where its text begins in the answer, in characters (its end, if a stop string
    cut the text before it)."""

    logprob: TokenLogprob
    offset: int


@dataclass(slots=True)
class Delta:
    """What became certain at once. The last delta of an answer has a finish reason; `stop_reason` is then the stop string or
    stop token of the caller's that ended it, if one did."""

    text: str
    scored: list[ScoredToken]
    finish_reason: Ending | None = None
    stop_reason: str | int | None = None


class Answer:
    """Text state of one sequence. Feed it every output in order until a delta has a finish reason."""

    __slots__ = ("_detokenizer", "_length", "_matcher", "_options", "_released", "_scored", "token_count")

    def __init__(self, tokens: TokenBytes, options: TextOptions) -> None:
        self._options = options
        self._detokenizer = Detokenizer(tokens, skip_special=options.skip_special)
        self._matcher = StopMatcher(options.stop, include=options.include_stop)
        self._scored: list[ScoredToken] = []
        self._length = 0
        self._released = 0
        self.token_count = 0
        """Tokens of the answer so far, the stop token included, tokens after a stop string not."""

    def push(self, output: RequestOutput) -> Delta | None:
        """What this output makes certain; None if nothing does yet."""
        text = ""
        last = len(output.tokens) - 1
        for place, token in enumerate(output.tokens):
            self.token_count += 1
            shown = ""
            if place != last or output.stop_token is None or self._options.include_stop:
                shown = self._detokenizer.push(token)
            if output.logprobs is not None:
                self._scored.append(ScoredToken(output.logprobs[place], self._length))
            self._length += len(shown)
            if shown:
                text += self._matcher.push(shown, armed=self.token_count > self._options.min_tokens)
                if self._matcher.matched is not None:
                    return self._delta(text, "stop", self._matcher.matched)
        if output.finish_reason in ("stop", "length"):
            return self._end(text, output)
        return self._delta(text) if text else None

    def _end(self, text: str, output: RequestOutput) -> Delta:
        text += self._matcher.push(self._detokenizer.finish(), armed=self.token_count > self._options.min_tokens)
        if self._matcher.matched is not None:
            return self._delta(text, "stop", self._matcher.matched)
        text += self._matcher.finish()
        named = output.stop_token if output.stop_token in self._options.stop_tokens else None
        return self._delta(text, "stop" if output.finish_reason == "stop" else "length", named)

    def _delta(self, text: str, finish_reason: Ending | None = None, stop_reason: str | int | None = None) -> Delta:
        """Scores go out with the text they belong to: those of text still held back wait, since a stop string may cut it."""
        self._released += len(text)
        if finish_reason is not None:
            for item in self._scored:
                item.offset = min(item.offset, self._released)
            ready, self._scored = self._scored, []
        else:
            ready = [item for item in self._scored if item.offset <= self._released]
            self._scored = self._scored[len(ready) :]
        return Delta(text, ready, finish_reason, stop_reason)
