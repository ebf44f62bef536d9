"""Streamed and whole answers agree, whatever is asked for, and whatever the memory that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import LiveServer, in_background, start

_WORDS = st.sampled_from(["The quick", "naïve 🙂", "a", " b", "<|im_end|> x"])
_TOKENS = st.lists(st.integers(0, 399), min_size=1, max_size=5)
_BODIES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["base", "all4"]),
        "prompt": _WORDS | st.lists(_WORDS, min_size=1, max_size=3) | _TOKENS | st.lists(_TOKENS, min_size=1, max_size=3),
        "n": st.integers(1, 3),
        "echo": st.booleans(),
        "logprobs": st.none() | st.integers(0, 3),
        "max_tokens": st.integers(1, 20),
        "min_tokens": st.integers(0, 1),
        "temperature": st.sampled_from([0, 1.0, 3.0]),
        "top_k": st.sampled_from([0, 1, 5]),
        "top_p": st.sampled_from([1.0, 0.5]),
        "seed": st.integers(0, 5),
        "stop": st.sampled_from([None, "e", "\ufffd", ["a", "qu"]]),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "ignore_eos": st.booleans(),
    }
)


def assembled(response: httpx.Response) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """(choices by index, usage) of a streamed completion put together."""
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    lines = [line for line in response.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        event = json.loads(line.removeprefix("data: "))
        usage = event.get("usage") or usage
        for piece in event["choices"]:
            choice = choices.setdefault(piece["index"], {"text": "", "finish_reason": None, "logprobs": None})
            assert choice["finish_reason"] is None, "something came after the end"
            choice["text"] += piece["text"]
            choice["finish_reason"] = piece["finish_reason"]
            for name, values in (piece["logprobs"] or {}).items():
                choice["logprobs"] = choice["logprobs"] or {}
                choice["logprobs"][name] = choice["logprobs"].get(name, []) + values
    return choices, usage


def test_a_stream_adds_up_to_the_whole_answer(server: LiveServer) -> None:
    """For any mix of prompts, choices, echo, log-probabilities, stop strings and sampling: text, log-probabilities, ending and
    usage of the stream, put together, are those of the whole answer."""

    @given(_BODIES)
    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def agree(body: dict[str, Any]) -> None:
        whole = server.post("/v1/completions", body)
        assert whole.status_code == 200, whole.text
        streaming = body | {"stream": True, "stream_options": {"include_usage": True}}
        choices, usage = assembled(server.post("/v1/completions", streaming))
        for expected in whole.json()["choices"]:
            assert choices[expected["index"]] == {key: expected[key] for key in ("text", "finish_reason", "logprobs")}
        assert len(choices) == len(whole.json()["choices"])
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert usage[name] == whole.json()["usage"][name]

    agree()


def test_when_memory_is_short_answers_wait_and_stay_right(world: World, tmp_path: Path) -> None:
    """Chats without max_tokens that together outgrow the memory are put back and recomputed: each ends as it does alone."""
    named = [part for name, path in world.adapters.items() for part in ("--adapter", f"{name}={path}")]
    sizes = ("--threads", 1, "--memory", "6MiB", "--max-model-len", 1024, "--served-model-name", "base")
    bodies = [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"{place} " + "The quick brown fox. " * 8}],
            "ignore_eos": True,
            "temperature": 1.0,
            "seed": place,
        }
        for place, model in enumerate(["base", "all4", "qv8", "mlp3", "mixed", "base", "all4", "qv8"] * 2)
    ]
    with start(world.model, tmp_path / "log", *named, *sizes) as server:
        asking = [in_background(lambda body=body: server.post("/v1/chat/completions", body)) for body in bodies]
        together = [ask().json()["choices"][0] for ask in asking]
        preemptions = server.metric("num_preemptions_total")
        assert together == [server.post("/v1/chat/completions", body).json()["choices"][0] for body in bodies]
        assert {choice["finish_reason"] for choice in together} == {"length"}
        assert preemptions > 0
