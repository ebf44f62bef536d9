"""POST /v1/chat/completions on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manylora.server.generation import Counts, Event
from manylora.server.text.answer import Delta, ScoredToken
from manylora.server.text.token_bytes import TokenBytes
from manylora.server.wire.completion import LEAST
from manylora.server.wire.envelope import Envelope, encode, usage_event, usage_fields


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class ChatWriter:
    """`scored`: whether log-probabilities were asked for."""

    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, envelope: Envelope, tokens: TokenBytes, *, choices: int, scored: bool) -> None:
        self._envelope = envelope
        self._tokens = tokens
        self._scored = scored
        self._opened = [False] * choices
        self._choices = [_Choice() for _ in range(choices)]
        self._head = b"data: " + envelope.head + b',"choices":[{"index":'

    def event(self, event: Event) -> bytes:
        """A chunk that opens the assistant's message, once per answer, then what this event adds."""
        delta = event.delta
        if delta is None:
            return b""
        opening = b""
        if not self._opened[event.index]:
            self._opened[event.index] = True
            opening = b"".join(
                [
                    self._head,
                    b"%d" % event.index,
                    b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null,"stop_reason":null}]',
                    b',"usage":null}\n\n',
                ]
            )
        parts = [opening, self._head, b"%d" % event.index, b',"delta":{"content":', encode(delta.text), b'},"logprobs":']
        parts.append(encode(self._logprobs(delta)) if self._scored else b"null")
        if delta.finish_reason is not None:
            parts += [b',"finish_reason":"', delta.finish_reason.encode(), b'","stop_reason":', encode(delta.stop_reason)]
        else:
            parts.append(b',"finish_reason":null,"stop_reason":null')
        parts.append(b'}],"usage":null}\n\n')
        return b"".join(parts)

    def usage(self, counts: Counts) -> bytes:
        """The last chunk of a stream that was asked to report usage."""
        return usage_event(self._envelope, counts)

    def collect(self, event: Event) -> None:
        """Keeps the event for `body`."""
        delta = event.delta
        if delta is None:
            return
        choice = self._choices[event.index]
        choice.text.append(delta.text)
        choice.logprobs += [self._token(item) for item in delta.scored]
        if delta.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason

    def body(self, counts: Counts) -> bytes:
        """The whole answer."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
                "logprobs": {"content": choice.logprobs, "refusal": None} if self._scored else None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return encode({**self._envelope.fields, "choices": choices, "usage": usage_fields(counts)})

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        return {"content": [self._token(item) for item in delta.scored], "refusal": None}

    def _token(self, item: ScoredToken) -> dict[str, Any]:
        scores = item.logprob
        return {
            **self._named(scores.token, scores.logprob),
            "top_logprobs": [self._named(token, logprob) for token, logprob in scores.top],
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        name, data = self._tokens.show(token)
        return {"token": name, "logprob": max(logprob, LEAST), "bytes": list(data)}
