"""Over HTTP: an answer is the same alone and in a mix of 32, to the last bit of its log-probabilities."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import PATIENCE, LiveServer, completion, said, start

PROMPTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Serve many adapters on one base model, quickly and fairly. " * 6,
    "naïve café, Grüße aus Köln",
    "def add(a, b):\n    return",
]


def mix(models: list[str], count: int, tokens: int, seed: int) -> list[dict[str, Any]]:
    """Requests to all models, half of them greedy, the others sampled with a seed; lengths and parameters differ."""
    rng = random.Random(seed)
    bodies = []
    for place in range(count):
        sampled = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": place, "presence_penalty": 0.5} if place % 2 else {}
        length = rng.randint(tokens // 2, tokens)
        bodies.append(completion(models[place % len(models)], rng.choice(PROMPTS), max_tokens=length, **sampled))
    return bodies


def together(server: LiveServer, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Everything at once; what each choice says, in order."""

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits) as client:
            return await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [said(response.json()["choices"][0]) for response in responses]


def alone(server: LiveServer, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One after the other."""
    return [said(server.post("/v1/completions", body).json()["choices"][0]) for body in bodies]


@pytest.mark.parametrize("seed", range(3))
def test_a_mix_of_32_answers_as_each_alone(server: LiveServer, seed: int) -> None:
    """Base and four adapters, greedy and seeded: text and log-probabilities are those of the request alone, before and after."""
    bodies = mix(["base", "all4", "qv8", "mlp3", "mixed"], 32, 40, seed)
    expected = alone(server, bodies)
    mixed = together(server, bodies)
    assert mixed == expected
    assert len({answer["text"] for answer in expected}) > 20


def test_int8_weights_answer_a_mix_as_each_alone(world: World, tmp_path: Path) -> None:
    """The same with --quantization int8, on two threads; and the server says what kind of weights it runs with: when it is ready,
    and with every answer."""
    log = tmp_path / "log"
    with start(world.model, log, *world.options(), "--threads", 2, "--quantization", "int8") as server:
        bodies = mix(["base", "all4", "qv8", "mlp3", "mixed"], 32, 40, 7)
        expected = alone(server, bodies)
        assert together(server, bodies) == expected
        assert "-int8-" in server.complete("base", max_tokens=1)["system_fingerprint"]
    assert len({answer["text"] for answer in expected}) > 20
    assert "on int8 weights" in log.read_text()


def test_a_mix_really_runs_together(server: LiveServer) -> None:
    """Steps serve several adapters at once; the mix is no queue."""
    before = [server.metric(name) for name in ("engine_steps_total", "engine_step_adapters_total")]
    together(server, mix(["all4", "qv8", "mlp3", "mixed"], 32, 40, 9))
    steps, adapters = (
        server.metric(name) - old for name, old in zip(("engine_steps_total", "engine_step_adapters_total"), before, strict=True)
    )
    assert adapters / steps > 1.5


def test_a_real_model_answers_in_a_mix_as_alone(smollm2_server: LiveServer) -> None:
    """SmolLM2 with adapters on all, two and one projections: a mix of 32 equals each request alone."""
    bodies = mix(["base", "wide", "narrow", "deep"], 32, 12, 5)
    singles = random.Random(1).sample(range(32), 10)
    mixed = together(smollm2_server, bodies)
    expected = alone(smollm2_server, [bodies[place] for place in singles])
    assert [mixed[place] for place in singles] == expected
    assert together(smollm2_server, bodies) == mixed


def test_a_real_model_makes_sense(smollm2_server: LiveServer) -> None:
    """The base model, through template, engine and detokenizer, answers a plain question."""
    with smollm2_server.openai() as client:
        question: Any = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
        answer = client.chat.completions.create(model="base", messages=question, temperature=0, max_tokens=20)
    assert "Paris" in (answer.choices[0].message.content or "")
