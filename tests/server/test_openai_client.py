"""The official client, sync and async, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from manylora import __version__

from .live import REPLY, Live, fixed_reply
from .tiny_tokenizers import END, byte_level

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def test_models(client: openai.OpenAI, live: Live) -> None:
    """Base names and adapters are listed; adapters with parent, root and version."""
    cards = {model.id: model.model_dump() for model in client.models.list()}
    assert list(cards) == ["tiny", "tiny-alias", "acme", "zeta"]
    assert cards["acme"]["parent"] == "tiny"
    assert cards["acme"]["root"].endswith("/allowed/acme")
    assert cards["acme"]["ranks"] == [8, 16]
    assert cards["acme"]["version"] in live.engine.versions
    assert cards["acme"]["warnings"] == ["made for tests"]
    assert cards["tiny"]["parent"] is None
    assert client.models.retrieve("zeta").id == "zeta"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_completion(client: openai.OpenAI) -> None:
    """Text, usage and ending of a plain completion."""
    answer = client.completions.create(model="tiny", prompt="Hello", max_tokens=100)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.index) == (REPLY, "stop", 0)
    prompt, new = len(byte_level().encode("Hello").ids), len(byte_level().encode(REPLY).ids) + 1
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (prompt, new, prompt + new)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == prompt // 2


def test_completion_default_length(client: openai.OpenAI, live: Live) -> None:
    """Without max_tokens a completion has 16 tokens, as OpenAI's has."""
    live.engine.reply = fixed_reply("a" * 40)
    answer = client.completions.create(model="tiny", prompt="x")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("fox", [[*b"fox"]]),
        (["fox", "dog"], [[*b"fox"], [*b"dog"]]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_prompt_kinds(client: openai.OpenAI, live: Live, prompt: Any, expected: list[list[int]]) -> None:
    """Prompts are text, a list of texts, token ids, or lists of them; each has its own answers in order; usage counts it once."""
    answer = client.completions.create(model="tiny", prompt=prompt, n=2, max_tokens=3, seed=5)
    tokens = [byte_level().encode(bytes(ids).decode()).ids if ids[0] > 50 else ids for ids in expected]
    seen = sorted(live.engine.seen, key=lambda request: int(request.id.rsplit("-", 1)[1]))
    assert [request.prompt for request in seen] == [ids for ids in tokens for _ in range(2)]
    assert [request.sampling.choice for request in seen] == [0, 1] * len(tokens)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(tokens)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, tokens))
    assert answer.usage.completion_tokens == 6 * len(tokens)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == sum(len(ids) // 2 for ids in tokens)


def test_sampling_parameters_reach_the_engine(client: openai.OpenAI, live: Live) -> None:
    """Every parameter arrives under the engine's name; the model's end token is among the stop tokens."""
    client.chat.completions.create(
        model="acme",
        messages=MESSAGES,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.75,
        presence_penalty=0.25,
        frequency_penalty=-0.25,
        logit_bias={"7": -100, "8": 2},
        seed=-1,
        logprobs=True,
        top_logprobs=3,
        user="someone",
        extra_body={
            "top_k": 5,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "min_tokens": 2,
            "stop_token_ids": [9, 10],
            "skip_special_tokens": False,
        },
    )
    request = live.engine.seen[0]
    params = request.sampling
    assert request.adapter == live.service.registry.get("acme").version.hash  # type: ignore[union-attr]
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k, params.min_p) == (9, 0.5, 0.75, 5, 0.125)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.25, -0.25, 1.5)
    assert (params.logit_bias, params.seed, params.min_tokens) == ({7: -100.0, 8: 2.0}, (1 << 63) - 1, 2)
    assert params.stop_token_ids == (byte_level().token_to_id(END), 9, 10)
    assert (params.logprobs, params.prompt_logprobs) == (3, None)


def test_defaults_reach_the_engine(client: openai.OpenAI, live: Live) -> None:
    """Without parameters: temperature 1, no limit in chat, no penalties, a fresh seed for every request."""
    for _ in range(2):
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    first, second = (request.sampling for request in live.engine.seen)
    assert (first.temperature, first.top_p, first.top_k, first.min_p, first.max_tokens) == (1.0, 1.0, 0, 0.0, None)
    assert (first.repetition_penalty, first.logprobs, first.choice) == (1.0, None, 0)
    assert first.seed != second.seed


def test_ignore_eos(client: openai.OpenAI, live: Live) -> None:
    """ignore_eos takes the model's own end tokens out of the stop tokens."""
    answer = client.completions.create(model="tiny", prompt="x", max_tokens=30, extra_body={"ignore_eos": True})
    assert live.engine.seen[0].sampling.stop_token_ids == ()
    assert answer.choices[0].finish_reason == "length"


def test_chat(client: openai.OpenAI, live: Live) -> None:
    """A conversation becomes the template's text; the answer names the adapter version, in the body and in a header."""
    raw = client.chat.completions.with_raw_response.create(model="acme", messages=MESSAGES)
    answer = raw.parse()
    version = live.service.registry.get("acme").version.hash  # type: ignore[union-attr]
    assert answer.choices[0].message.content == REPLY
    assert raw.headers["x-manylora-adapter-version"] == version
    assert answer.system_fingerprint == f"manylora-{__version__}-{version[:12]}"
    prompt = byte_level().decode(live.engine.seen[0].prompt, skip_special_tokens=False)
    assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_chat_stream(client: openai.OpenAI) -> None:
    """Streamed deltas join to the whole answer; the role comes first, the ending last, the usage after it when asked for."""
    chunks = list(
        client.chat.completions.create(model="zeta", messages=MESSAGES, stream=True, n=2, stream_options={"include_usage": True})
    )
    texts, endings = {0: "", 1: ""}, {}
    for chunk in chunks[:-1]:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            endings[choice.index] = choice.finish_reason
    assert texts == {0: REPLY, 1: REPLY}
    assert endings == {0: "stop", 1: "stop"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2 * (len(byte_level().encode(REPLY).ids) + 1)
    assert len({chunk.id for chunk in chunks}) == 1


def test_completion_stream(client: openai.OpenAI) -> None:
    """Streamed completions of several prompts join to the same texts as whole ones; no usage unless asked for."""
    chunks = list(client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=50, stream=True))
    for index in (0, 1):
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == index) == REPLY
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_across_tokens(client: openai.OpenAI, live: Live, stream: bool) -> None:
    """A stop string that spans tokens ends the answer before it, and the engine's work."""
    create: Any = client.completions.create
    answer = create(
        model="tiny", prompt="x", max_tokens=200, stop=["own f", "never"], stream=stream, extra_body={"ignore_eos": True}
    )
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == " The quick br"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].stop_reason == "own f"
    live.wait_until(lambda: not live.engine.running)
    assert len(live.engine.aborted) == 1


def test_stop_string_in_output(client: openai.OpenAI) -> None:
    """include_stop_str_in_output keeps the stop string."""
    extra = {"include_stop_str_in_output": True}
    answer = client.completions.create(model="tiny", prompt="x", max_tokens=200, stop="brown", extra_body=extra)
    assert answer.choices[0].text == " The quick brown"


def test_completion_logprobs_and_echo(client: openai.OpenAI) -> None:
    """echo repeats the prompt and scores it; tokens, offsets and scores are parallel and point into the text."""
    answer = client.completions.create(model="tiny", prompt="Hi fox", max_tokens=100, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text == "Hi fox" + REPLY
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.text_offset is not None
    assert scores.token_logprobs is not None
    assert scores.top_logprobs is not None
    lengths = {len(scores.tokens), len(scores.text_offset), len(scores.token_logprobs), len(scores.top_logprobs)}
    assert lengths == {len(byte_level().encode("Hi fox").ids) + len(byte_level().encode(REPLY).ids) + 1}
    assert scores.token_logprobs[0] is None
    assert all(value is not None and value <= 0 for value in scores.token_logprobs[1:])
    for token, offset in zip(scores.tokens[:-1], scores.text_offset[:-1], strict=True):
        if not token.startswith("bytes:"):
            assert choice.text.startswith(token, offset)
    assert scores.text_offset[-1] == len(choice.text)
    assert all(top is None or len(top) in (2, 3) for top in scores.top_logprobs)


def test_echo_alone_scores_the_prompt(client: openai.OpenAI, live: Live) -> None:
    """echo with max_tokens 0 scores the prompt and returns nothing else, as evaluation harnesses expect."""
    answer = client.completions.create(model="tiny", prompt="Hi fox", max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == "Hi fox"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens is not None
    assert "".join(answer.choices[0].logprobs.tokens) == "Hi fox"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert live.engine.seen[0].sampling.prompt_logprobs == 0


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(client: openai.OpenAI, stream: bool) -> None:
    """Chat scores have text and bytes of each token; the bytes join to the answer's, split characters included."""
    create: Any = client.chat.completions.create
    answer = create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=2, stream=stream)
    chunks = list(answer) if stream else [answer]
    scores = [item for chunk in chunks if chunk.choices[0].logprobs for item in chunk.choices[0].logprobs.content]
    joined = b"".join(bytes(item.bytes) for item in scores)
    assert joined.decode() == REPLY + END
    assert all(len(item.top_logprobs) == 2 for item in scores)


def test_errors_are_the_clients_own_types(client: openai.OpenAI) -> None:
    """The client raises its own exceptions with the fields of the error object."""
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param, unknown.value.type) == ("model_not_found", "model", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=-1)
    assert wrong.value.param == "temperature"


def test_async_client_streams_side_by_side(live: Live) -> None:
    """Many streams of different models at once, each whole and its own."""

    async def one(client: openai.AsyncOpenAI, model: str) -> str:
        stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
            return await asyncio.gather(*(one(client, ("tiny", "acme", "zeta")[turn % 3]) for turn in range(24)))

    versions = {entry.version.hash: name for name, entry in live.service.registry.adapters()}

    def named(request: Any) -> list[int]:
        return byte_level().encode(f"I am {versions.get(request.adapter, 'tiny')}").ids

    live.engine.reply = named
    assert asyncio.run(all_of_them()) == [f"I am {('tiny', 'acme', 'zeta')[turn % 3]}" for turn in range(24)]
