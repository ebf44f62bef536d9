"""Whatever is sent, the answer is an OpenAI error object that names the parameter, and never a 5xx."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
import structlog
from tokenizers import Tokenizer

from manylora.errors import (
    AdapterConflict,
    AdapterRejected,
    AdapterUnavailable,
    ConfigError,
    EngineDied,
    Overloaded,
    RequestAborted,
    RequestError,
)
from manylora.server import app, prompts
from manylora.server.error_map import from_validation
from manylora.server.logs import configure_logs
from manylora.server.prompts import tokenize

from .live import Live

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [[1], "x"]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [10**12]}, "prompt"),
        ({"prompt": ["x"] * 65}, "n"),
        ({"n": 65}, "n"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "prompt"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": "1"}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 1 << 63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [999999]}, "stop_token_ids"),
        ({"stop_token_ids": "x"}, "stop_token_ids"),
        ({"stop_token_ids": [1, "x"]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 129}, "stop_token_ids"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"surprise": 1}}, "stream_options.surprise"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": 1}, "echo"),
        ({"user": 5}, "user"),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"surprise": 1}, "surprise"),
        ({"guided_json": {}}, "guided_json"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_completion_parameter_is_named(live: Live, change: dict[str, Any], param: str) -> None:
    """A parameter that is out of range, of the wrong type, unknown or unsupported is a 400 that names it."""
    error = error_of(live.post("/v1/completions", COMPLETION | change), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert not live.engine.seen


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "messages.0.mood"),
        ({"messages": [{"role": "user", "content": "x"}, 5]}, "messages.1"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"echo": True}, "echo"),
        ({"surprise": None}, "surprise"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_chat_parameter_is_named(live: Live, change: dict[str, Any], param: str) -> None:
    """The same for chat, messages included."""
    error = error_of(live.post("/v1/chat/completions", CHAT | change), 400)
    assert error["param"] == param
    assert not live.engine.seen


def test_neutral_values_of_unsupported_fields_pass(live: Live) -> None:
    """Clients that write out defaults are served: fields that ask for nothing are no fault."""
    neutral = {
        "tools": None,
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "functions": [],
        "store": False,
        "modalities": ["text"],
        "temperature": None,
        "stop": None,
        "logit_bias": None,
        "n": None,
    }
    message = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "audio": None, "annotations": []}
    body = CHAT | neutral | {"messages": [message, {"role": "user", "content": "y"}]}
    assert live.post("/v1/chat/completions", body).status_code == 200
    assert live.post("/v1/completions", COMPLETION | {"best_of": 1, "suffix": None, "use_beam_search": False}).status_code == 200
    assert live.post("/v1/completions", COMPLETION | {"best_of": 2, "n": 2}).status_code == 200
    assert live.post("/v1/completions", COMPLETION | {"best_of": None}).status_code == 200


def test_too_long_prompts_name_both_numbers(live: Live) -> None:
    """A prompt that does not fit says how long it is and how much fits; so does one that leaves no room for max_tokens."""
    error = error_of(live.post("/v1/completions", COMPLETION | {"prompt": [5] * 300}), 400)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "300" in error["message"]
    assert "256" in error["message"]
    error = error_of(live.post("/v1/completions", COMPLETION | {"prompt": [5] * 200, "max_tokens": 57}), 400)
    assert all(number in error["message"] for number in ("200", "57", "256"))
    assert live.post("/v1/completions", COMPLETION | {"prompt": [5] * 200, "max_tokens": 56}).status_code == 200
    assert live.post("/v1/completions", COMPLETION | {"prompt": [5] * 250}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_text_that_cannot_fit_is_never_tokenised(live: Live, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More characters than all tokens of the context could stand for: refused by counting, before the slow work."""
    base = live.service.base
    limit = 256 * base.characters_per_token
    chat = path.endswith("chat/completions")
    param = "messages" if chat else "prompt"

    def post(length: int) -> dict[str, Any]:
        text = "x" * length
        body = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        return error_of(live.post(path, {"model": "tiny", **body}), 400)

    with monkeypatch.context() as patched:
        patched.setattr(live.service, "base", replace(base, tokenizer=None, template=None))
        error = post(limit + 1)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert all(number in error["message"] for number in (str(limit + 1), "256", str(base.characters_per_token)))
    error = post(limit - 200)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert "tokens; this model takes fewer than 256" in error["message"], "what may fit is tokenised and counted"


def test_tokens_of_long_texts_are_those_of_short_ones(live: Live) -> None:
    """Long texts take another way through the tokenizer, to the same tokens, special ones included."""
    text = "The quick brown fox, naïve 🙂 <|im_start|>. " * 200
    for special in (False, True):
        prompt = live.call(lambda special=special: tokenize(text, live.service.base, add_special_tokens=special, limit=10**6))
        assert prompt.tokens == live.service.base.tokenizer.encode(text, add_special_tokens=special).ids


class WatchedTokenizer:
    """A tokenizer that says while it is at work."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.working = threading.Event()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.working.set()
            try:
                return getattr(self.tokenizer, name)(*arguments, **options)
            finally:
                self.working.clear()

        return call


def test_others_are_served_while_a_long_text_is_tokenised(live: Live) -> None:
    """The tokenizer must give up the interpreter's lock: were it kept, nobody could see it at work."""
    watched = WatchedTokenizer(live.service.base.tokenizer)
    base = replace(live.service.base, tokenizer=cast("Tokenizer", watched))

    async def turns_while_working() -> int:
        text = "The quick brown fox. " * 40_000
        tokenizing, turns = asyncio.create_task(tokenize(text, base, add_special_tokens=False, limit=10**7)), 0
        while not tokenizing.done():
            turns += watched.working.is_set()
            await asyncio.sleep(0.002)  # gives the lock away, so that a tokenizer that has kept it is seen at its end only
        await tokenizing
        return turns

    assert asyncio.run(turns_while_working()) > 10


MANY = {f"key{place}": 1 for place in range(3000)}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": 3}] * 3000}, "messages.0.role"),
        ("/v1/chat/completions", {"messages": [{"role": 3}] * 5000}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * 4097}]}, "messages"),
        ("/v1/chat/completions", CHAT | MANY, "key0"),
        ("/v1/chat/completions", {"messages": [CHAT["messages"][0] | MANY]}, "messages.0.key0"),
        ("/v1/completions", COMPLETION | MANY, "key0"),
        ("/v1/completions", COMPLETION | {"stop_token_ids": ["x"] * 3000}, "stop_token_ids"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_only_the_first_of_many_faults_is_looked_at(
    live: Live, path: str, body: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body with very many faults costs what one fault costs: the check ends at the first."""
    counts: list[int] = []
    monkeypatch.setattr(app, "from_validation", lambda errors: counts.append(len(errors)) or from_validation(errors))
    assert error_of(live.post(path, {"model": "tiny"} | body), 400)["param"] == param
    assert counts[0] <= 2  # a message without content and with a bad role has two


def test_of_many_texts_the_first_that_does_not_fit_ends_the_work(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts behind it are not tokenised for nothing."""
    seen: list[int] = []
    encode = prompts._encode
    monkeypatch.setattr(prompts, "_encode", lambda text, *rest: seen.append(len(text)) or encode(text, *rest))
    error = error_of(live.post("/v1/completions", COMPLETION | {"prompt": ["x" * 5000] * 8}), 400)
    assert error["code"] == "context_length_exceeded"
    assert seen == [5000]


def test_answers_repeat_little_of_what_was_sent(live: Live) -> None:
    """An error names what it is about without sending it all back."""
    for body in (COMPLETION | {"model": "x" * 100_000}, COMPLETION | {"y" * 100_000: 1}):
        response = live.post("/v1/completions", body)
        assert response.status_code in (400, 404)
        assert len(response.content) < 2000


def send(live: Live, content: bytes, kind: str = "application/json", path: str = "/v1/completions") -> httpx.Response:
    with live.client() as client:
        return client.post(path, content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "x", "temperature": Infinity}',
        b'{"model": "tiny", "prompt": "x", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "x", "n": ' + b"1" * 5000 + b"}",
        b"[]",
        b"5",
        b"null",
        b'"x"',
    ],
    ids=lambda content: content[:30].decode(errors="replace") + f" ({len(content)})",
)
def test_bodies_that_are_no_json_object(live: Live, content: bytes) -> None:
    """Malformed JSON, numbers JSON does not have, broken UTF-8, deep nesting and anything but an object are 400s."""
    expected = "invalid_value" if content else "missing_required_parameter"
    assert error_of(send(live, content), 400)["code"] == expected


def test_a_body_that_is_no_object_is_told_in_plain_words(live: Live) -> None:
    """Not in the words of the validating library."""
    assert error_of(send(live, b"[]"), 400)["message"] == "the body must be a JSON object"
    error = error_of(live.post("/v1/chat/completions", CHAT | {"messages": [5]}), 400)
    assert error["message"] == "messages.0 must be a JSON object"


def test_content_type_must_be_json(live: Live) -> None:
    """A form post is told which content type is needed."""
    assert "application/json" in error_of(send(live, json.dumps(COMPLETION).encode(), "text/plain"), 415)["message"]
    assert send(live, json.dumps(COMPLETION).encode(), "application/json; charset=utf-8").status_code == 200


def test_bodies_have_a_size_limit(live: Live) -> None:
    """A body over the limit is refused, declared or chunked, before it is read whole."""
    error_of(send(live, b" " * 200_001), 413)
    with live.client() as client:
        chunks = (b" " * 1000 for _ in range(300))
        response = client.post("/v1/completions", content=chunks, headers={"Content-Type": "application/json"})
        error_of(response, 413)


def test_routes_and_methods_that_do_not_exist(live: Live) -> None:
    """Also 404 and 405 are error objects."""
    with live.client() as client:
        assert error_of(client.get("/v2/anything"), 404)["code"] == "not_found"
        assert error_of(client.delete("/v1/completions"), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RequestError("no", "prompt"), 400, "invalid_value"),
        (AdapterUnavailable("no"), 503, "adapter_unavailable"),
        (Overloaded("no"), 429, "overloaded"),
        (EngineDied("no"), 503, "engine_died"),
        (RequestAborted("no"), 503, "request_aborted"),
        (AdapterRejected("no"), 400, "adapter_rejected"),
        (AdapterConflict("no"), 409, "adapter_conflict"),
        (ConfigError("no"), 500, "internal_error"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_engine_errors(live: Live, fault: Exception, status: int, code: str | None, stream: bool) -> None:
    """Each exception has its status, streamed or not; those worth another try say when; the unforeseen shows no insides."""
    live.engine.fault = fault
    response = live.post("/v1/completions", COMPLETION | {"stream": stream})
    error = error_of(response, status)
    assert error["code"] == code
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "secret" not in response.text


def test_no_content_is_echoed_in_logs(live: Live) -> None:
    """Prompts stay out of the logs, at every level."""
    with structlog.testing.capture_logs() as entries:
        assert live.post("/v1/completions", COMPLETION | {"prompt": "TOP SECRET"}).status_code == 200
        live.post("/v1/completions", COMPLETION | {"prompt": "TOP SECRET", "surprise": 1})
    assert [entry["event"] for entry in entries] == ["request"]
    assert "SECRET" not in repr(entries)


@pytest.mark.parametrize("as_json", [False, True])
def test_tracebacks_show_no_variables(as_json: bool) -> None:
    """A logged exception has its traceback, but none of the local variables, which may hold prompts."""
    stream = io.StringIO()
    configure_logs("debug", json=as_json, stream=stream)
    try:
        hidden = "TOP SECRET"
        try:
            raise ZeroDivisionError(f"after {len(hidden)} characters")
        except ZeroDivisionError:
            structlog.get_logger("test").exception("failed")
            logging.getLogger("uvicorn.error").exception("failed too")
    finally:
        configure_logs("debug")
    assert stream.getvalue().count("ZeroDivisionError: after 10 characters") == 2
    assert "SECRET" not in stream.getvalue().replace('hidden = "TOP SECRET"', "")


def test_request_ids(live: Live) -> None:
    """A client's plain X-Request-Id comes back; anything else gets a new one."""
    with live.client() as client:
        assert client.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        assert client.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
