"""What every answer of one HTTP request has in common, and the writer contract that both kinds of completion implement."""

from __future__ import annotations

import time
import uuid
from typing import Protocol

import msgspec

from manylora import __version__
from manylora.server.generation import Counts, Event
from manylora.server.registry import Lease

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """Turns the events of one request into an answer: `event` and `usage` for a stream, or `collect` and then `body`."""

    def event(self, event: Event) -> bytes:
        """The server-sent events for it; may be empty."""

    def usage(self, counts: Counts) -> bytes:
        """The last chunk of a stream that was asked to report usage."""

    def collect(self, event: Event) -> None:
        """Keeps it for `body`."""

    def body(self, counts: Counts) -> bytes:
        """The whole answer as one JSON object."""


class Envelope:
    """The fields that name the answer: id, time, model, and in `system_fingerprint` what answered."""

    def __init__(self, kind: str, prefix: str, lease: Lease, quantization: str) -> None:
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.fields = {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": lease.name,
            "system_fingerprint": fingerprint(lease, quantization),
        }
        self.head = encode(self.fields)[:-1]
        """The JSON object up to where its next field begins."""


def fingerprint(lease: Lease, quantization: str) -> str:
    """Which software, weights and adapter version answered: manylora-VERSION-HASH, manylora-VERSION-int8-HASH; without an
    adapter, `base` for the hash."""
    who = "base" if lease.answers is None else lease.answers.short
    return f"manylora-{__version__}-{who}" if quantization == "none" else f"manylora-{__version__}-{quantization}-{who}"


def usage_fields(counts: Counts) -> dict[str, object]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }


def usage_event(envelope: Envelope, counts: Counts) -> bytes:
    """The chunk without choices that ends a stream with include_usage."""
    return b"data: " + envelope.head + b',"choices":[],"usage":' + encode(usage_fields(counts)) + b"}\n\n"
