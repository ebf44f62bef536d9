"""Failures that users of other engines reported, replayed: each named by the issue that describes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import EventStream, LiveServer, completion, in_background, said, start, until
from tests.end_to_end.test_batch_invariance import together
from tests.engine.harness import write_lora

LONG_PROMPT = "Serve many adapters on one base model, quickly and fairly. " * 8

Write = Callable[..., Path]


@pytest.fixture
def write(world: World) -> Iterator[Write]:
    """Writes an adapter below the root, over what is there; all are gone when the test ends."""
    top = world.root / "known"

    def make(name: str, seed: int, rank: int = 4, **config: object) -> Path:
        shutil.rmtree(top / name, ignore_errors=True)
        return write_lora(top / name, world.shape, rank, seed=seed, **config)

    yield make
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="module")
def plain_server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that reuses no prompt: what it says cannot be stale."""
    log = tmp_path_factory.mktemp("plain-server") / "log"
    with start(world.model, log, *world.options(), "--no-prefix-cache") as server:
        yield server


def load(server: LiveServer, name: str, path: Path, **body: object) -> None:
    response = server.load(name, path, **body)
    assert response.status_code == 200, response.text


def test_new_weights_under_an_old_name_are_never_served_from_old_prefixes(
    server: LiveServer, plain_server: LiveServer, write: Write
) -> None:
    """vllm#42125, vllm#30931: reloaded in place with new weights, the same prompt reuses nothing of the old version, and is
    answered as a server answers that never knew it. The old weights, back again, answer as at first."""
    path = write("tenant", seed=60)
    load(server, "tenant", path)
    old = server.answer("tenant", LONG_PROMPT)
    assert server.complete("tenant", LONG_PROMPT)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    write("tenant", seed=61)
    load(server, "tenant", path, load_inplace=True)
    new = server.complete("tenant", LONG_PROMPT)
    assert new["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    load(plain_server, "tenant", path)
    assert said(new["choices"][0]) == plain_server.answer("tenant", LONG_PROMPT) != old
    assert plain_server.unload("tenant").status_code == 200
    write("tenant", seed=60)
    load(server, "tenant", path, load_inplace=True)
    assert server.answer("tenant", LONG_PROMPT) == old


def test_unloaded_and_loaded_anew_is_another_adapter(server: LiveServer, write: Write) -> None:
    """vllm#30931: the same name for other content after an unload has nothing of the first."""
    load(server, "reused", write("one", seed=62))
    first = server.answer("reused", LONG_PROMPT)
    assert server.unload("reused").status_code == 200
    load(server, "reused", write("two", seed=63))
    second = server.complete("reused", LONG_PROMPT)
    assert said(second["choices"][0]) != first
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_name_needs_load_inplace_to_move(server: LiveServer, write: Write) -> None:
    """As with vLLM, a second load of a name is refused unless it says that it means to replace; the first serves on."""
    load(server, "kept", write("kept", seed=64))
    before = server.answer("kept")
    response = server.load("kept", write("other", seed=65))
    assert response.status_code == 400
    assert "load_inplace" in response.json()["error"]["message"]
    assert server.answer("kept") == before


def test_a_stream_keeps_its_version_when_the_name_moves(server: LiveServer, write: Write) -> None:
    """The old version ends its streams while the new one already answers; then the old one's bytes are back."""
    load(server, "moving", write("moving", seed=66))
    held = server.fresh_metric("adapter_bytes")
    settings = {"max_tokens": 1500, "logprobs": None}
    old = server.answer("moving", **settings)["text"]
    path = write("moving", seed=67)
    with EventStream(server, completion("moving", **settings)) as stream:
        with server.engine_paused():
            loading = in_background(lambda: server.load("moving", path, load_inplace=True))
        assert loading().status_code == 200
        assert server.answer("moving", **settings)["text"] != old
        assert stream.text() == old
    until(lambda: server.fresh_metric("adapter_bytes") == held, "the old version's bytes are free")


def test_rslora_is_scaled_by_the_root_of_the_rank(server: LiveServer, write: Write) -> None:
    """sglang#40835: alpha 8 at rank 16 with rsLoRA is alpha 32 without, to the bit, and not alpha 8 without."""
    load(server, "rooted", write("rooted", seed=68, rank=16, lora_alpha=8, use_rslora=True))
    load(server, "equal", write("equal", seed=68, rank=16, lora_alpha=32))
    load(server, "weak", write("weak", seed=68, rank=16, lora_alpha=8))
    assert server.answer("rooted") == server.answer("equal")
    assert server.answer("rooted")["logprobs"] != server.answer("weak")["logprobs"]


def test_unloading_after_many_choices_does_not_hang(server: LiveServer, write: Write) -> None:
    """sglang#36894: after n answers at once, finished or under way, an unload returns, frees, and the server serves on."""
    held = server.fresh_metric("adapter_bytes")
    load(server, "many", write("many", seed=69))
    body = completion("many", n=8, temperature=1.0, seed=1, max_tokens=60, logprobs=None)
    finished = server.post("/v1/completions", body).json()["choices"]
    with server.engine_paused():
        asking = in_background(lambda: server.post("/v1/completions", body))
        until(lambda: server.metric("prompt_tokens_total", model_name="many") == 4, "the second request is accepted")
        assert server.unload("many").status_code == 200
    response = asking()
    assert response.status_code == 200
    assert response.json()["choices"] == finished
    until(lambda: server.fresh_metric("adapter_bytes") == held, "the adapter's bytes are free")


def test_many_adapters_and_the_base_at_once(server: LiveServer, write: Write) -> None:
    """sglang#23141: twenty adapters more than at start, each with a request, and the base with one, all at once."""
    names = [f"tenant-{place}" for place in range(20)]
    for place, name in enumerate(names):
        load(server, name, write(name, seed=100 + place, rank=1 + place % 7))
    bodies = [completion(name, LONG_PROMPT) for name in ("base", *names, "all4", "qv8", "mlp3", "mixed")]
    mixed = together(server, bodies)
    assert len({answer["text"] for answer in mixed}) == len(bodies)
    assert mixed == [said(server.post("/v1/completions", body).json()["choices"][0]) for body in bodies]


def test_a_load_does_not_change_whose_adapter_serves(server: LiveServer, write: Write) -> None:
    """vllm#47724: requests of one tenant that are under way while other tenants' adapters are loaded get their own answers."""
    load(server, "mine", write("mine", seed=70))
    bodies = [completion(name, max_tokens=400, logprobs=1) for name in ("mine", "all4", "base", "mine")]
    expected = together(server, bodies)
    others = [write(f"theirs-{place}", seed=71 + place) for place in range(4)]
    with server.engine_paused():
        asking = in_background(lambda: together(server, bodies))
        loading = in_background(lambda: [server.load(path.name, path) for path in others])
    assert asking() == expected
    assert [response.status_code for response in loading()] == [200] * 4
    assert together(server, bodies) == expected


def test_a_prompt_is_not_reused_across_adapters(server: LiveServer, plain_server: LiveServer) -> None:
    """llama.cpp#26207: one long prompt, to one adapter after the other and back, is answered as without any reuse."""
    models = ["all4", "base", "qv8", "mlp3", "all4", "mixed", "base", "qv8"]
    answers = [server.answer(model, LONG_PROMPT) for model in models]
    assert answers == [plain_server.answer(model, LONG_PROMPT) for model in models]


def test_coming_and_going_leaks_nothing(server: LiveServer, write: Write) -> None:
    """vllm#54839: adapters that were loaded, used and unloaded thirty times leave the memory as it was."""
    held = server.fresh_metric("adapter_bytes")
    for turn in range(30):
        name = f"turn-{turn}"
        load(server, name, write("turn", seed=200 + turn % 3))
        server.answer(name)
        assert server.unload(name).status_code == 200
    until(lambda: server.fresh_metric("adapter_bytes") == held, "all bytes are free")
