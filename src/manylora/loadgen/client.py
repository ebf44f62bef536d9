"""One streamed answer, timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A request to one of the two OpenAI routes that answer. `body` is sent as it stands, with streaming and usage on."""

    body: dict[str, Any]
    path: str = "/v1/completions"


@dataclass(slots=True)
class LoadResult:
    """What came back, and when. Times are seconds of one monotonic clock."""

    request: LoadRequest
    sent: float
    arrivals: list[float] = field(default_factory=list)
    """When each piece of text arrived."""
    text: str = ""
    finish_reason: str | None = None
    served_by: str | None = None
    """The server's fingerprint of what answered."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    ended: float = 0.0
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first text (time to first token)."""
        return self.arrivals[0] - self.sent

    @property
    def tpot(self) -> float:
        """Seconds per output token after the first."""
        return (self.arrivals[-1] - self.arrivals[0]) / max(self.output_tokens - 1, 1)


def ignore(result: LoadResult) -> None:
    """The callback that does nothing."""


async def stream_answer(
    session: aiohttp.ClientSession, url: str, request: LoadRequest, on_text: Callable[[LoadResult], None] = ignore
) -> LoadResult:
    """Sends one request and reads its stream to the end, calling `on_text` whenever text has come.

    A failure is a result with `error`, not an exception."""
    body = request.body | {"stream": True, "stream_options": {"include_usage": True}}
    result = LoadResult(request, time.perf_counter())
    try:
        async with session.post(url + request.path, json=body) as response:
            if response.status != 200:
                result.error = f"HTTP {response.status}: {(await response.text())[:300]}"
            else:
                async for line in response.content:
                    if _read(line, result):
                        on_text(result)
    except (aiohttp.ClientError, TimeoutError) as error:
        result.error = f"{type(error).__name__}: {error}"
    result.ended = time.perf_counter()
    if result.error is None and result.finish_reason is None:
        result.error = "the stream ended without a finish reason"
    return result


def _read(line: bytes, result: LoadResult) -> bool:
    """Takes in one line of the stream; whether it brought text."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return False
    event = json.loads(line[6:])
    if "error" in event:
        result.error = str(event["error"].get("message", event["error"]))
        return False
    before = len(result.arrivals)
    result.served_by = event.get("system_fingerprint") or result.served_by
    for choice in event["choices"]:
        if text := choice["text"] if "text" in choice else choice["delta"].get("content"):
            result.arrivals.append(time.perf_counter())
            result.text += text
        result.finish_reason = choice["finish_reason"] or result.finish_reason
    if usage := event.get("usage"):
        result.prompt_tokens, result.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return len(result.arrivals) > before
