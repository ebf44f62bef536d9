"""The official client against the real server, sync and async, streaming and not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import LiveServer

MODELS = ["base", "all4", "qv8", "mlp3", "mixed"]
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The quick brown fox?"}]
GREEDY: Any = {"temperature": 0, "max_tokens": 16, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with server.openai() as client:
        yield client


def text_of(chunks: Any) -> str:
    """The text of a streamed completion or chat completion."""
    parts = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(part.text if hasattr(part, "text") else part.delta.content or "" for part in parts)


def test_lists_the_base_and_its_adapters(client: openai.OpenAI, world: World) -> None:
    """Every name that can be asked is listed; adapters name their parent and their content's hash, each its own."""
    cards = {model.id: model.model_dump() for model in client.models.list()}
    assert list(cards) == MODELS
    assert all(cards[name]["parent"] == "base" for name in world.adapters)
    assert len({cards[name]["version"] for name in world.adapters}) == len(world.adapters)


@pytest.mark.parametrize("model", MODELS)
def test_streams_say_what_whole_answers_say(client: openai.OpenAI, model: str) -> None:
    """Streamed or not, completion or chat: the same text, ending and usage."""
    whole = client.completions.create(model=model, prompt="Serve many", **GREEDY)
    chunks = list(
        client.completions.create(model=model, prompt="Serve many", stream=True, stream_options={"include_usage": True}, **GREEDY)
    )
    assert text_of(chunks) == whole.choices[0].text
    assert len(whole.choices[0].text) > 0
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert whole.usage.completion_tokens == 16
    chat = client.chat.completions.create(model=model, messages=MESSAGES, **GREEDY)
    stream = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **GREEDY))
    assert stream[0].choices[0].delta.role == "assistant"
    assert text_of(stream) == chat.choices[0].message.content
    assert {chunk.model for chunk in stream} == {chat.model} == {model}


def test_async_client_gets_the_same(client: openai.OpenAI, server: LiveServer) -> None:
    """The async client, with all models at once, streaming and not, gets what the sync client gets one by one."""
    expected = [client.chat.completions.create(model=model, messages=MESSAGES, **GREEDY) for model in MODELS]

    async def ask() -> tuple[list[Any], list[str]]:
        async with server.async_openai() as agent:

            async def streamed(model: str) -> str:
                stream = await agent.chat.completions.create(model=model, messages=MESSAGES, stream=True, **GREEDY)
                return text_of([chunk async for chunk in stream])

            whole = [agent.chat.completions.create(model=model, messages=MESSAGES, **GREEDY) for model in MODELS]
            answers = await asyncio.gather(*whole, *(streamed(model) for model in MODELS))
            return answers[: len(MODELS)], answers[len(MODELS) :]

    answers, texts = asyncio.run(ask())
    wanted = [answer.choices[0].message.content for answer in expected]
    assert [answer.choices[0].message.content for answer in answers] == wanted
    assert texts == wanted


def test_each_adapter_has_its_own_answer_and_says_its_version(client: openai.OpenAI, world: World) -> None:
    """Equal prompts to different models are answered differently, each by the version that the list shows."""
    versions = {model.id: model.model_dump()["version"] or "base" for model in client.models.list()}
    texts = set()
    for model in MODELS:
        raw = client.completions.with_raw_response.create(model=model, prompt="The quick brown fox", **GREEDY)
        assert raw.headers["x-manylora-adapter-version"] == versions[model]
        texts.add(raw.parse().choices[0].text)
    assert len(texts) == len(MODELS)


def test_n_answers_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    """n answers to one prompt are distinct, the same for the same seed, and the same streamed; another seed, other answers."""
    settings: Any = {"model": "all4", "prompt": "Serve", "n": 4, "temperature": 1.0, "max_tokens": 16}
    first = [choice.text for choice in client.completions.create(seed=7, **settings).choices]
    again = [choice.text for choice in client.completions.create(seed=7, **settings).choices]
    other = [choice.text for choice in client.completions.create(seed=8, **settings).choices]
    unseeded = [[choice.text for choice in client.completions.create(**settings).choices] for _ in range(2)]
    assert first == again
    assert len({*first, *other}) == 8
    assert unseeded[0] != unseeded[1]
    streamed = [""] * 4
    for chunk in client.completions.create(seed=7, stream=True, **settings):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == first


def test_log_probabilities_of_both_routes(client: openai.OpenAI) -> None:
    """Greedy tokens are the most likely ones; both routes report the same numbers for the same prompt; streams too."""
    rendered = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nThe quick brown fox?<|im_end|>\n<|im_start|>assistant\n"
    )
    plain = client.completions.create(model="qv8", prompt=rendered, logprobs=3, **GREEDY).choices[0].logprobs
    chat = client.chat.completions.create(model="qv8", messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    assert plain is not None
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    assert [entry.logprob for entry in content] == plain.token_logprobs
    assert [entry.top_logprobs[0].logprob for entry in content] == plain.token_logprobs
    assert all(len(entry.top_logprobs) == 3 for entry in content)
    stream = client.chat.completions.create(model="qv8", messages=MESSAGES, logprobs=True, top_logprobs=3, stream=True, **GREEDY)
    scores = [chunk.choices[0].logprobs for chunk in stream if chunk.choices and chunk.choices[0].logprobs]
    assert [entry.logprob for score in scores for entry in score.content or []] == plain.token_logprobs


@pytest.mark.parametrize("model", MODELS)
def test_echo_scores_an_answer_as_it_was_scored_when_made(client: openai.OpenAI, server: LiveServer, model: str) -> None:
    """Prompt and answer sent back as a prompt get, in one prefill, the very log-probabilities that decoding gave: bit for bit."""
    prompt = [40, 41, 42, 43, 44]
    made = client.completions.create(model=model, prompt=prompt, logprobs=1, **GREEDY)
    assert made.choices[0].logprobs is not None
    vocabulary = _ids_by_shown_token(client)
    tokens = [vocabulary[token] for token in made.choices[0].logprobs.tokens or []]
    scored = client.completions.create(model=model, prompt=prompt + tokens, logprobs=1, echo=True, max_tokens=0, temperature=0)
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[len(prompt) :] == made.choices[0].logprobs.token_logprobs


def _ids_by_shown_token(client: openai.OpenAI) -> dict[str, int]:
    """How the server shows every token of the tiny vocabulary -> its id."""
    shown = client.completions.create(
        model="base", prompt=list(range(400)), echo=True, max_tokens=0, logprobs=0, extra_body={"skip_special_tokens": False}
    )
    assert shown.choices[0].logprobs is not None
    return {token: place for place, token in enumerate(shown.choices[0].logprobs.tokens or [])}


def test_echo_repeats_the_prompt(client: openai.OpenAI) -> None:
    """The answer begins with the prompt to the letter, and goes on as without echo."""
    prompt = "naïve café 🙂 "
    plain = client.completions.create(model="mixed", prompt=prompt, **GREEDY).choices[0].text
    assert client.completions.create(model="mixed", prompt=prompt, echo=True, **GREEDY).choices[0].text == prompt + plain


def test_stop_strings_end_the_answer(client: openai.OpenAI) -> None:
    """The text ends right before the stop string, wherever tokens end, streamed or not; the work ends too."""
    settings: Any = {"model": "mlp3", "prompt": "The quick", "temperature": 0, "extra_body": {"ignore_eos": True}}
    full = client.completions.create(max_tokens=64, **settings).choices[0].text
    stop = full[20:23]
    cut = client.completions.create(max_tokens=64, stop=[stop, "never there"], **settings)
    assert cut.choices[0].text == full[: full.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert cut.usage.completion_tokens < 64
    chunks = list(client.completions.create(max_tokens=64, stop=stop, stream=True, **settings))
    assert text_of(chunks) == cut.choices[0].text
    assert [choice.finish_reason for choice in chunks[-1].choices] == ["stop"]


def test_usage_counts_what_was_reused(client: openai.OpenAI) -> None:
    """A prompt that was seen before is taken from the prefix cache, says so, and is answered the same."""
    prompt = list(range(10, 110))
    first, second = (client.completions.create(model="all4", prompt=prompt, **GREEDY) for _ in range(2))
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens == second.usage.prompt_tokens == 100
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == 96
    assert second.choices[0].text == first.choices[0].text


def test_an_unknown_adapter_is_not_found(client: openai.OpenAI) -> None:
    """Never a silent fall-back to the base."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="nobody", prompt="x")
    assert caught.value.param == "model"
    assert caught.value.code == "model_not_found"
    assert "nobody" in caught.value.message
