"""POST /v1/completions on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manylora.server.generation import Counts, Event
from manylora.server.text.token_bytes import TokenBytes
from manylora.server.wire.envelope import Envelope, encode, usage_event, usage_fields
from manylora.types.request import TokenLogprob

LEAST = -9999.0
"""Stands for log-probabilities below it: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to repeat before its answers: its text, its tokens, and where in the text each token begins (characters)."""

    text: str
    tokens: list[int]
    offsets: list[int]


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: dict[str, list[Any]] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class CompletionWriter:
    """`echoes` has one entry per prompt, or none at all. `prompt_only`: the caller asked for no new tokens."""

    def __init__(
        self,
        envelope: Envelope,
        tokens: TokenBytes,
        *,
        choices: int,
        per_prompt: int,
        echoes: list[Echo],
        prompt_only: bool = False,
    ) -> None:
        self._envelope = envelope
        self._tokens = tokens
        self._per_prompt = per_prompt
        self._echoes = echoes
        self._prompt_only = prompt_only
        self._echoed = [False] * choices
        self._choices = [_Choice() for _ in range(choices)]
        self._head = b"data: " + envelope.head + b',"choices":[{"index":'

    def event(self, event: Event) -> bytes:
        """One chunk: what this event adds to one answer."""
        text, logprobs = self._content(event)
        delta = event.delta
        finished = delta is not None and delta.finish_reason is not None
        if not text and not finished and logprobs is None:
            return b""
        parts = [self._head, b"%d" % event.index, b',"text":', encode(text), b',"logprobs":']
        parts.append(b"null" if logprobs is None else encode(logprobs))
        if delta is not None and finished:
            parts += [b',"finish_reason":"', self._ending(event).encode(), b'","stop_reason":', encode(self._stop(event))]
        else:
            parts.append(b',"finish_reason":null,"stop_reason":null')
        parts.append(b'}],"usage":null}\n\n')
        return b"".join(parts)

    def usage(self, counts: Counts) -> bytes:
        """The last chunk of a stream that was asked to report usage."""
        return usage_event(self._envelope, self._counted(counts))

    def collect(self, event: Event) -> None:
        """Keeps the event for `body`."""
        text, logprobs = self._content(event)
        choice = self._choices[event.index]
        choice.text.append(text)
        if logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = logprobs
            else:
                for name, values in logprobs.items():
                    choice.logprobs[name] += values
        if event.delta is not None and event.delta.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = self._ending(event), self._stop(event)

    def body(self, counts: Counts) -> bytes:
        """The whole answer."""
        choices = [
            {
                "index": index,
                "text": "".join(choice.text),
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return encode({**self._envelope.fields, "choices": choices, "usage": usage_fields(self._counted(counts))})

    def _counted(self, counts: Counts) -> Counts:
        return Counts(counts.prompt, 0, counts.cached) if self._prompt_only else counts

    def _ending(self, event: Event) -> str:
        ending = None if event.delta is None else event.delta.finish_reason
        return "length" if self._prompt_only or ending is None else ending

    def _stop(self, event: Event) -> str | int | None:
        return None if self._prompt_only or event.delta is None else event.delta.stop_reason

    def _content(self, event: Event) -> tuple[str, dict[str, list[Any]] | None]:
        """Text and log-probabilities of this event, those of the echoed prompt before the first of an answer."""
        delta, shift, text, scored = event.delta, 0, "", _Scores(self._tokens)
        if self._echoes:
            echo = self._echoes[event.index // self._per_prompt]
            shift = len(echo.text)
            if not self._echoed[event.index]:
                self._echoed[event.index] = True
                text = echo.text
                for token, offset, logprob in zip(echo.tokens, echo.offsets, event.prompt_logprobs or (), strict=False):
                    scored.add(token, logprob, offset)
        if delta is not None and not self._prompt_only:
            text += delta.text
            for item in delta.scored:
                scored.add(item.logprob.token, item.logprob, item.offset + shift)
        return text, scored.fields()


class _Scores:
    """OpenAI's parallel lists."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._offsets: list[int] = []
        self._logprobs: list[float | None] = []
        self._names: list[str] = []
        self._top: list[dict[str, float] | None] = []

    def add(self, token: int, logprob: TokenLogprob | None, offset: int) -> None:
        name = self._tokens.show(token)[0]
        self._offsets.append(offset)
        self._names.append(name)
        if logprob is None:  # the first token of a prompt follows nothing
            self._logprobs.append(None)
            self._top.append(None)
            return
        value = max(logprob.logprob, LEAST)
        top: dict[str, float] = {}
        for other, likely in logprob.top:
            top.setdefault(self._tokens.show(other)[0], max(likely, LEAST))
        top.setdefault(name, value)
        self._logprobs.append(value)
        self._top.append(top)

    def fields(self) -> dict[str, list[Any]] | None:
        if not self._names:
            return None
        return {
            "text_offset": self._offsets,
            "token_logprobs": self._logprobs,
            "tokens": self._names,
            "top_logprobs": self._top,
        }
