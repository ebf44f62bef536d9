"""Bad input over the real socket: a clear refusal that names the parameter, and the server serves on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.live_server import LiveServer, completion


@pytest.fixture
def server(server: LiveServer) -> Iterator[LiveServer]:
    """Whatever was sent, the next request is answered as before."""
    before = server.answer("all4")
    yield server
    assert server.answer("all4") == before


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The OpenAI error object of a response with that status: one line, nothing of the inside."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return dict(error)


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("temperature", -0.01),
    ("temperature", 101),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", -1),
    ("top_k", -2),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("presence_penalty", -2.1),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("frequency_penalty", 2.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("n", 0),
    ("n", 129),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("min_tokens", -1),
    ("logprobs", -1),
    ("logprobs", 21),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("stop", ""),
    ("stop", ["x"] * 17),
    ("stop_token_ids", [400]),
    ("stop_token_ids", [-1]),
    ("logit_bias", {"400": 1}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {"one": 1}),
]
WRONG_TYPES: list[tuple[str, Any]] = [
    *[(name, "1") for name in ("temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "min_tokens", "seed")],
    *[(name, [1]) for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "model")],
    *[(name, 1) for name in ("stop", "stream", "echo", "ignore_eos", "logit_bias", "stop_token_ids", "user")],
    *[(name, 1.5) for name in ("top_k", "n", "max_tokens", "seed", "prompt")],
    ("n", True),
    ("prompt", [1, "x"]),
    ("prompt", {"text": "x"}),
]


@pytest.mark.parametrize(("param", "value"), OUT_OF_RANGE + WRONG_TYPES, ids=lambda value: str(value)[:24])
def test_a_bad_parameter_is_named(server: LiveServer, param: str, value: Any) -> None:
    """Every sampling parameter out of its range or of another type: 400 with the parameter's name."""
    error = error_of(server.post("/v1/completions", completion("all4") | {param: value}), 400)
    assert error["param"].split(".")[0] == param  # an entry of a list has its place after the name
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [400], [-1], [1 << 40]], ids=str)
def test_an_empty_or_impossible_prompt_is_refused(server: LiveServer, prompt: Any) -> None:
    """A prompt without tokens, or with tokens that the model does not have."""
    assert error_of(server.post("/v1/completions", completion("all4", prompt)), 400)["param"] == "prompt"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("length", "tokens"), [(4096, 1), (5000, 1), (4000, 97)])
def test_what_does_not_fit_the_context_is_refused(server: LiveServer, length: int, tokens: int, stream: bool) -> None:
    """Too long a prompt, alone or with max_tokens, is told the limit; what just fits is served."""
    body = completion("all4", [5] * length, max_tokens=tokens, stream=stream)
    error = error_of(server.post("/v1/completions", body), 400)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "4096" in error["message"]


def test_what_just_fits_the_context_is_served(server: LiveServer) -> None:
    """The limit itself is no fault."""
    assert server.complete("all4", [5] * 4090, max_tokens=6)["usage"]["total_tokens"] == 4096


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_a_bad_chat_parameter_is_named(server: LiveServer, change: dict[str, Any], param: str) -> None:
    """The chat route is as strict, also about what is not supported or unknown."""
    body = {"model": "all4", "messages": [{"role": "user", "content": "x"}]} | change
    assert error_of(server.post("/v1/chat/completions", body), 400)["param"] == param


@pytest.mark.parametrize("model", ["nobody", "ALL4", "all4 ", "", "../all4", "base/all4"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_an_unknown_adapter_is_404(server: LiveServer, path: str, model: str) -> None:
    """A name that is not served exactly so is never answered by the base or by another adapter."""
    body = (
        {"model": model, "prompt": "x"}
        if path == "/v1/completions"
        else {"model": model, "messages": [{"role": "user", "content": "x"}]}
    )
    error = error_of(server.post(path, body), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'model': 1}", b'{"model": "all4", "prompt": "x",}', b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"a": NaN}'],
    ids=lambda content: repr(content[:24]),
)
def test_malformed_json_is_400(server: LiveServer, content: bytes) -> None:
    """A body that is no JSON object is the caller's fault, said so."""
    headers = {"Content-Type": "application/json"}
    error_of(server.http.post("/v1/completions", content=content, headers=headers), 400)


def test_a_huge_body_is_refused_before_it_is_read(server: LiveServer) -> None:
    """413 as soon as the size is known: declared, or while chunks come."""
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        error_of(client.post("/v1/completions", content=b" " * (17 << 20), headers=headers), 413)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        chunks = (b" " * (1 << 20) for _ in range(40))
        error_of(client.post("/v1/completions", content=chunks, headers=headers), 413)


def test_wrong_routes_methods_and_types(server: LiveServer) -> None:
    """404, 405 and 415 are error objects too."""
    assert error_of(server.http.get("/v1/nothing"), 404)["code"] == "not_found"
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert error_of(server.http.request(method, "/v1/completions"), 405)["code"] == "method_not_allowed"
    error_of(server.http.post("/v1/completions", content=b"model=all4"), 415)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"A" * 100_000,
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_what_is_not_http_harms_nobody(server: LiveServer, sent: bytes) -> None:
    """Garbage on the socket ends that connection only."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


@pytest.mark.parametrize(
    ("extreme", "meaning"),
    [
        ({"top_p": 5e-324}, {"top_k": 1}),
        ({"top_p": 1e-40}, {"top_k": 1}),
        ({"top_k": 2**31}, {}),
        ({"top_k": 10**25}, {}),
        ({"temperature": 5e-324}, {"temperature": 0}),
        ({"temperature": 1e-40}, {"temperature": 0}),
        ({"min_p": 1e-46}, {}),
        ({"min_p": 0.9999999999999999}, {"top_k": 1}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"logit_bias": {str(token): -100 for token in range(400)}}, {}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_extreme_value_means_what_it_says(server: LiveServer, extreme: dict[str, Any], meaning: dict[str, Any]) -> None:
    """Values at the ends of their ranges, beyond what the kernels' own number types hold, are answered as their meaning is."""
    settings = {"temperature": 1.0, "seed": 3}
    found, expected = server.answer("all4", **settings | extreme), server.answer("all4", **settings | meaning)
    assert found["text"] == expected["text"]
