"""Streams on the wire: their exact form, clients that leave, engines that die, readers that are slow."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from manylora.server.api.responses import (
    ChatCompletionChunk,
    ChatCompletionResponse,
    CompletionResponse,
    ErrorResponse,
)

from .live import Live, fixed_reply

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 100}
CHAT: dict[str, Any] = {"model": "acme", "messages": [{"role": "user", "content": "x"}]}


def events_of(response: httpx.Response) -> Iterator[str]:
    """The data of each server-sent event; anything that is not one event per blank-line-separated block fails."""
    buffer = "".join(response.iter_text())
    assert buffer.endswith("\n\n")
    for block in buffer.removesuffix("\n\n").split("\n\n"):
        assert block.startswith("data: ")
        assert "\n" not in block
        yield block.removeprefix("data: ")


def raw_post(body: bytes) -> bytes:
    """A completion request as bytes, for clients that misbehave below HTTP."""
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"echo": True, "logprobs": 1, "n": 2}, {"max_tokens": 0, "echo": True}])
@pytest.mark.parametrize("stream", [False, True])
def test_completions_keep_to_their_schema(live: Live, options: dict[str, Any], stream: bool) -> None:
    """The bytes written by hand are what the OpenAPI document says, streamed and whole, and nothing more."""
    response = live.post("/v1/completions", COMPLETION | options | {"stream": stream})
    if not stream:
        CompletionResponse.model_validate(response.json(), strict=True, extra="forbid")
        return
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert response.headers["content-type"].startswith("text/event-stream")
    for chunk in chunks:
        CompletionResponse.model_validate(json.loads(chunk), strict=True, extra="forbid")


@pytest.mark.parametrize("options", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 3, "max_tokens": 2}, {"stop": "quick"}])
@pytest.mark.parametrize("stream", [False, True])
def test_chat_keeps_to_its_schema(live: Live, options: dict[str, Any], stream: bool) -> None:
    """The same for chat; each answer opens with the role once and closes once."""
    response = live.post("/v1/chat/completions", CHAT | options | {"stream": stream})
    assert response.headers["x-manylora-adapter-version"] in live.engine.versions
    if not stream:
        ChatCompletionResponse.model_validate(response.json(), strict=True, extra="forbid")
        return
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate(json.loads(chunk), strict=True, extra="forbid") for chunk in chunks]
    for index in range(options.get("n", 1)):
        mine = [chunk.choices[0] for chunk in parsed if chunk.choices[0].index == index]
        assert [choice.delta.role for choice in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert [choice.finish_reason is not None for choice in mine] == [False] * (len(mine) - 1) + [True]


def test_streamed_scores_equal_whole_ones(live: Live) -> None:
    """Scores and offsets of a stream, joined, are those of the whole answer, also when text is held back for a stop string."""
    body = COMPLETION | {"logprobs": 1, "stop": ["own fury", "naïve !"], "echo": True}
    whole = live.post("/v1/completions", body).json()["choices"][0]
    joined: dict[str, list[Any]] = {name: [] for name in whole["logprobs"]}
    text = ""
    *chunks, _ = events_of(live.post("/v1/completions", body | {"stream": True}))
    for chunk in map(json.loads, chunks):
        text += chunk["choices"][0]["text"]
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert (text, joined) == (whole["text"], whole["logprobs"])


def test_stop_reason_names_the_callers_stop_token(live: Live) -> None:
    """A stop token of the caller's is told back; the model's own end token is an ordinary ending."""
    token = live.engine.reply(None)[2]  # type: ignore[arg-type]
    named = live.post("/v1/completions", COMPLETION | {"stop_token_ids": [token]}).json()["choices"][0]
    assert (named["finish_reason"], named["stop_reason"]) == ("stop", token)
    plain = live.post("/v1/completions", COMPLETION).json()["choices"][0]
    assert (plain["finish_reason"], plain["stop_reason"]) == ("stop", None)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("stream", "pause_after"), [(True, 3), (True, 0), (False, 3)], ids=["stream", "unstarted", "whole"])
def test_client_gone_ends_its_work(live: Live, stream: bool, pause_after: int, n: int) -> None:
    """A client that closes its connection aborts all its engine requests, before the first token, midway, streamed or not."""
    live.engine.pause_after = pause_after
    body = json.dumps(COMPLETION | {"stream": stream, "n": n}).encode()
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(raw_post(body))
        live.wait_until(lambda: len(live.engine.running) == n)
        if stream and pause_after:
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
    live.wait_until(lambda: not live.engine.running)
    assert len(live.engine.aborted) == n


def test_leases_end_with_the_client(live: Live) -> None:
    """A client that leaves does not keep its adapter version in use for ever."""
    live.engine.pause_after = 1
    with live.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}):
        assert live.call(lambda: live.service.registry.in_use(live.engine.seen[0].adapter or "")) == 1
    live.wait_until(lambda: not live.service.registry.in_use(live.engine.seen[0].adapter or ""))


def test_engine_death_midway(live: Live) -> None:
    """A stream under way ends with an error event and without [DONE]; a whole answer is a 503; later requests succeed."""
    live.engine.pause_after = 3
    with live.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.status_code == 200
        live.call(live.engine.die)
        *chunks, last = events_of(response)
        assert chunks
    assert ErrorResponse.model_validate(json.loads(last)).error.code == "engine_died"
    refused = live.post("/v1/chat/completions", CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert refused.headers["retry-after"].isdigit()
    with live.client() as client:
        assert client.get("/health").status_code == 503
        assert client.get("/v1/models").status_code == 200, "what is served is known also while the engine restarts"
        live.call(live.engine.revive)
        live.engine.pause_after = None
        assert client.get("/health").json() == {"status": "ok"}
    assert live.post("/v1/chat/completions", CHAT).status_code == 200


def test_slow_reader_holds_up_nobody(live: Live) -> None:
    """With a stream whose reader does not read at all and whose socket is full, others are answered; the reader loses nothing."""
    live.engine.max_model_len = 1 << 16
    live.service.info = live.call(live.engine.start)
    count = 20_000
    long = live.engine.reply(None)[0]  # type: ignore[arg-type]
    live.engine.reply = lambda request: [long] * (count if request.sampling.max_tokens == count else 5)
    body = json.dumps(COMPLETION | {"stream": True, "max_tokens": count}).encode()
    host, port = live.url.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(raw_post(body))
            live.wait_until(lambda: len(live.engine.running) == 1)
            for _ in range(5):
                assert live.post("/v1/completions", COMPLETION | {"max_tokens": 4}).status_code == 200
            assert len(live.engine.running) == 1, "the socket took the whole stream: the test proves nothing"
            received = bytearray()
            while data := connection.recv(1 << 16):
                received += data
        assert received.count(b'"text":') == count
        assert b"[DONE]" in received
    finally:
        live.engine.max_model_len = 256
        live.service.info = live.call(live.engine.start)


def test_requests_keep_their_order_of_choices(live: Live) -> None:
    """However answers interleave, each choice carries its own text."""

    def by_choice(request: Any) -> list[int]:
        return list(fixed_reply("abc"[request.sampling.choice] * (3 - request.sampling.choice))(request))

    live.engine.reply = by_choice
    choices = live.post("/v1/completions", COMPLETION | {"n": 3}).json()["choices"]
    assert [choice["text"] for choice in choices] == ["aaa", "bb", "c"]
