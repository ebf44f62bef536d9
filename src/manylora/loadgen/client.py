"""One streamed completion, timed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A request to /v1/completions. `body` is sent as it stands, with streaming and usage switched on."""

    body: dict[str, Any]


@dataclass(slots=True)
class LoadResult:
    """What came back, and when. Times are seconds of one monotonic clock."""

    request: LoadRequest
    sent: float
    arrivals: list[float] = field(default_factory=list)
    """When each piece of text arrived."""
    text: str = ""
    finish_reason: str | None = None
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


async def stream_completion(session: aiohttp.ClientSession, url: str, request: LoadRequest) -> LoadResult:
    """Sends one request and reads its stream to the end. A failure is a result with `error`, not an exception."""
    body = request.body | {"stream": True, "stream_options": {"include_usage": True}}
    result = LoadResult(request, time.perf_counter())
    try:
        async with session.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                result.error = f"HTTP {response.status}: {(await response.text())[:300]}"
            else:
                async for line in response.content:
                    _read(line, result)
    except (aiohttp.ClientError, TimeoutError) as error:
        result.error = f"{type(error).__name__}: {error}"
    result.ended = time.perf_counter()
    if result.error is None and result.finish_reason is None:
        result.error = "the stream ended without a finish reason"
    return result


def _read(line: bytes, result: LoadResult) -> None:
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return
    event = json.loads(line[6:])
    if "error" in event:
        result.error = str(event["error"].get("message", event["error"]))
        return
    for choice in event["choices"]:
        if choice["text"]:
            result.arrivals.append(time.perf_counter())
            result.text += choice["text"]
        result.finish_reason = choice["finish_reason"] or result.finish_reason
    if usage := event.get("usage"):
        result.prompt_tokens, result.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
