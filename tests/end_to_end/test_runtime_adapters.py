"""Adapters that come, change and go while the server serves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.broken_adapters import BROKEN, broken
from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import EventStream, LiveServer, completion, in_background, until
from tests.end_to_end.test_bad_input import error_of
from tests.engine.harness import write_lora

LONG = 1500


@pytest.fixture
def fresh(world: World, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder name below the allowed root that is the test's own."""
    folder = world.root / "fresh" / request.node.name.replace("/", "_")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_adapter_is_refused_with_one_line(server: LiveServer, world: World, fresh: Path, what: str) -> None:
    """The line says what is wrong; the name does not exist afterwards, no memory is taken, and others are served as before."""
    reason = broken(world.adapters["all4"], fresh, what)
    before, held = server.answer("all4"), server.fresh_metric("adapter_bytes")
    error = error_of(server.load("broken", fresh), 400)
    assert reason in error["message"]
    assert (error["param"], error["code"]) == ("lora_path", "adapter_rejected")
    error_of(server.post("/v1/completions", completion("broken")), 404)
    assert server.answer("all4") == before
    assert server.fresh_metric("adapter_bytes") == held


def test_only_what_lies_below_the_roots_is_loaded(server: LiveServer, world: World) -> None:
    """Absolute, relative, through links to folders or to files: a path out of the roots is refused, unread."""
    link, linked = world.root / "link", world.root / "linked-file"
    link.symlink_to(world.outside / "secret")
    shutil.copytree(world.outside / "secret", linked)
    (linked / "adapter_model.safetensors").unlink()
    (linked / "adapter_model.safetensors").symlink_to(world.outside / "secret" / "adapter_model.safetensors")
    try:
        outside = [
            world.outside / "secret",
            "../outside/secret",
            link,
            "link",
            f"{world.root}/all4/../../outside/secret",
            "/",
            ".",
        ]
        for path in outside:
            error = error_of(server.load("escaped", path), 400)
            assert "not below an allowed adapter root" in error["message"]
            assert error["param"] == "lora_path"
        assert "leads out of the folder" in error_of(server.load("escaped", linked), 400)["message"]
        assert "not a folder" in error_of(server.load("escaped", world.root / "missing"), 400)["message"]
        assert "not a folder" in error_of(server.load("escaped", "all4/adapter_config.json"), 400)["message"]
        error_of(server.load("escaped", "a\0b"), 400)
        error_of(server.load("escaped", "x" * 4000), 400)
    finally:
        link.unlink()
        shutil.rmtree(linked)
    assert "escaped" not in server.names()


@pytest.mark.parametrize("name", ["base", "all4", "a/b", "a@1", " a", "", "x" * 129, "a\nb"])
def test_names_that_cannot_be_served(server: LiveServer, world: World, name: str) -> None:
    """A name that is taken, is the base's, or cannot be asked for is refused, naming the parameter."""
    assert error_of(server.load(name, world.adapters["qv8"]), 400)["param"] == "lora_name"


def test_load_and_unload_as_vllm_does(server: LiveServer, world: World, fresh: Path) -> None:
    """vLLM's request and answer shapes; the adapter serves in between, and its memory is back afterwards."""
    held = server.fresh_metric("adapter_bytes")
    write_lora(fresh, world.shape, 6, seed=50)
    response = server.load("late", fresh)
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'late' added successfully.")
    assert server.names()[-1] == "late"
    assert server.answer("late") != server.answer("base")
    assert server.metric("adapter_bytes") > held
    response = server.unload("late")
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'late' removed successfully.")
    error_of(server.post("/v1/completions", completion("late")), 404)
    error_of(server.unload("late"), 404)
    until(lambda: server.fresh_metric("adapter_bytes") == held, "the adapter's bytes are free")


def test_the_same_content_under_two_names_is_held_once(server: LiveServer, world: World) -> None:
    """Identity is content: a second name costs nothing, answers the same, and outlives the first."""
    held, expected = server.fresh_metric("adapter_bytes"), server.answer("mixed")
    for name in ("twin-1", "twin-2"):
        assert server.load(name, world.adapters["mixed"]).status_code == 200
    assert server.answer("twin-1") == server.answer("twin-2") == expected
    assert server.fresh_metric("adapter_bytes") == held
    assert server.unload("twin-1").status_code == 200
    assert server.answer("twin-2") == server.answer("mixed") == expected


def test_hot_loading_during_a_stream(server: LiveServer, world: World, fresh: Path) -> None:
    """An adapter arrives while others stream: the streams lose nothing, the new one is served right, and nobody waits for the
    streams to end."""
    body = completion("all4", max_tokens=LONG, logprobs=None)
    expected = server.answer("all4", max_tokens=LONG, logprobs=None)["text"]
    write_lora(fresh, world.shape, 6, seed=51)
    with EventStream(server, body) as stream:
        with server.engine_paused():
            loading = in_background(lambda: server.load("hot", fresh))
        assert loading().status_code == 200
        hot = server.answer("hot")
        assert stream.text() == expected
        assert stream.done
    assert hot == server.answer("hot")
    assert hot != server.answer("base")


def test_unloading_during_a_stream_lets_it_finish(server: LiveServer, world: World, fresh: Path) -> None:
    """The name is gone at once, the stream under way ends with the version it began with, then the bytes are back."""
    held = server.fresh_metric("adapter_bytes")
    write_lora(fresh, world.shape, 6, seed=52)
    assert server.load("leaving", fresh).status_code == 200
    expected = server.answer("leaving", max_tokens=LONG, logprobs=None)["text"]
    with EventStream(server, completion("leaving", max_tokens=LONG, logprobs=None)) as stream:
        with server.engine_paused():
            assert server.unload("leaving").status_code == 200
            error_of(server.post("/v1/completions", completion("leaving")), 404)
        assert stream.text() == expected
        assert stream.done
    until(lambda: server.fresh_metric("adapter_bytes") == held, "the adapter's bytes are free")


def test_a_name_comes_back_while_its_old_stream_runs(server: LiveServer, world: World, fresh: Path) -> None:
    """Unload, then load of the same content during a stream: the stream ends, the name serves, and nothing is freed under it."""
    write_lora(fresh, world.shape, 6, seed=53)
    assert server.load("again", fresh).status_code == 200
    expected = server.answer("again", max_tokens=LONG, logprobs=None)
    with EventStream(server, completion("again", max_tokens=LONG, logprobs=None)) as stream:
        with server.engine_paused():
            assert server.unload("again").status_code == 200
            loading = in_background(lambda: server.load("again", fresh))
        assert loading().status_code == 200
        assert stream.text() == expected["text"]
    for _ in range(3):
        assert server.answer("again", max_tokens=LONG, logprobs=None) == expected


def test_concurrent_loads_of_one_name_agree(server: LiveServer, world: World, fresh: Path) -> None:
    """One of many loads of a name at once wins; the others are told so; the adapter serves, and leaves nothing when it goes."""
    held = server.fresh_metric("adapter_bytes")
    write_lora(fresh, world.shape, 6, seed=54)
    loads = [in_background(lambda: server.load("raced", fresh)) for _ in range(8)]
    statuses = sorted(load().status_code for load in loads)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {400, 409}
    assert server.answer("raced") != server.answer("base")
    assert server.unload("raced").status_code == 200
    until(lambda: server.fresh_metric("adapter_bytes") == held, "the adapter's bytes are free")


def test_an_oversized_file_is_refused_unread(server: LiveServer, world: World, fresh: Path) -> None:
    """A file over the limit, which costs nothing to make, costs nothing to refuse."""
    shutil.copytree(world.adapters["all4"], fresh)
    os.truncate(fresh / "adapter_model.safetensors", 1 << 40)
    assert "the limit is" in error_of(server.load("huge", fresh), 400)["message"]


def test_when_memory_is_full_a_load_is_refused_and_an_unload_makes_room(
    own_server: LiveServer, world: World, fresh: Path
) -> None:
    """Adapters take what is there, never what a longest request needs; past it a load is told to come back, with the reason."""
    loaded: list[str] = []
    while True:
        folder = write_lora(fresh / str(len(loaded)), world.shape, 512, seed=300 + len(loaded), lora_alpha=8)
        response = own_server.load(f"large-{len(loaded)}", folder)
        if response.status_code != 200:
            break
        loaded.append(f"large-{len(loaded)}")
    error = error_of(response, 503)
    assert error["code"] == "adapter_unavailable"
    assert "--memory" in error["message"]
    assert int(response.headers["retry-after"]) > 0
    assert len(loaded) > 3
    assert own_server.complete("all4", [5] * 4000, max_tokens=96)["usage"]["total_tokens"] == 4096
    assert own_server.answer(loaded[-1]) != own_server.answer(loaded[0])
    assert own_server.unload(loaded[0]).status_code == 200
    until(lambda: own_server.load("at-last", folder).status_code == 200, "there is room again")
    assert own_server.answer("at-last") != own_server.answer("base")
