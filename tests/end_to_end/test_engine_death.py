"""SIGKILL to the processes of a server: clear errors at once, service again within seconds, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from manylora.adapters import read_adapter
from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import EventStream, LiveServer, completion, in_background, start, until
from tests.engine.harness import write_lora

LONG = 3000
MODELS = ["base", "all4", "qv8", "mlp3", "mixed"]


def health(server: LiveServer) -> int:
    return server.http.get("/health").status_code


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def kill_engine_and_wait(server: LiveServer) -> None:
    """SIGKILL; returns when the server is healthy again, having been seen unhealthy."""
    server.engine().kill()
    until(lambda: health(server) == 503, "the server says that it cannot serve")
    until(lambda: health(server) == 200, "the server is back")


def test_requests_in_flight_get_an_error_and_the_engine_comes_back(own_server: LiveServer) -> None:
    """Streams end with an error event, other requests with 503 and when to retry; health turns 503, then 200; then every
    adapter is there again and answers the same bits."""
    server = own_server
    before = {model: server.answer(model) for model in MODELS}
    held = server.fresh_metric("adapter_bytes")
    long = {"max_tokens": LONG, "logprobs": None}
    with EventStream(server, completion("all4", **long)) as first, EventStream(server, completion("base", **long)) as second:
        engine = server.engine()
        engine.suspend()
        asking = in_background(lambda: server.post("/v1/completions", completion("qv8", **long)))
        chat: dict[str, Any] = {"model": "mixed", "messages": [{"role": "user", "content": "x"}], "stream": True}
        chatting = in_background(lambda: server.post("/v1/chat/completions", chat))
        accepted = [("request_prompt_tokens_count", {"model_name": name}) for name in ("qv8", "mixed")]
        until(lambda: all(server.metric(name, **labels) == 2 for name, labels in accepted), "both requests are accepted")
        engine.kill()
        until(lambda: health(server) == 503, "the server says that it cannot serve")
        for stream in (first, second):
            assert stream.rest()[-1]["error"]["code"] == "engine_died"
            assert not stream.done
    for response in (asking(), chatting()):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_died"
        assert int(response.headers["retry-after"]) > 0
    until(lambda: health(server) == 200, "the server is back")
    assert {model: server.answer(model) for model in MODELS} == before
    assert server.names() == MODELS
    assert server.fresh_metric("adapter_bytes") == held
    assert server.metric("engine_restarts_total") == 1
    assert server.metric("num_requests_running") == 0


def test_while_the_engine_is_away_requests_are_told_to_come_back(own_server: LiveServer) -> None:
    """503 with Retry-After, not a hang, not a fall-back; and the next death is survived as the first was."""
    expected = own_server.answer("mixed")
    own_server.engine().kill()
    until(lambda: health(own_server) == 503, "the server says that it cannot serve")
    response = own_server.post("/v1/completions", completion("mixed"))
    assert response.status_code == 503
    assert response.json()["error"]["code"] in ("not_ready", "engine_died")
    assert int(response.headers["retry-after"]) > 0
    until(lambda: health(own_server) == 200, "the server is back")
    assert own_server.answer("mixed") == expected
    kill_engine_and_wait(own_server)
    assert own_server.answer("mixed") == expected


def test_runtime_changes_survive_the_engine(own_server: LiveServer, world: World) -> None:
    """Adapters that were loaded at run time come back too; those that were unloaded do not."""
    assert own_server.load("late", world.adapters["mixed"]).status_code == 200
    assert own_server.unload("qv8").status_code == 200
    expected = own_server.answer("late")
    held = own_server.fresh_metric("adapter_bytes")
    kill_engine_and_wait(own_server)
    assert own_server.answer("late") == expected
    assert own_server.post("/v1/completions", completion("qv8")).status_code == 404
    assert own_server.fresh_metric("adapter_bytes") == held


def test_an_unload_while_the_engine_is_away_frees(own_server: LiveServer) -> None:
    """A name that was unloaded between death and return is gone, and so are its bytes."""
    held = own_server.fresh_metric("adapter_bytes")
    own_server.engine().kill()
    until(lambda: health(own_server) == 503, "the server says that it cannot serve")
    assert own_server.unload("all4").status_code == 200
    until(lambda: health(own_server) == 200, "the server is back")
    assert own_server.fresh_metric("adapter_bytes") < held


def test_an_unload_whose_last_stream_dies_with_the_engine_frees(own_server: LiveServer) -> None:
    """The bytes of an adapter that waited for a stream are not kept because that stream ended with the engine."""
    held = own_server.fresh_metric("adapter_bytes")
    with EventStream(own_server, completion("all4", max_tokens=LONG, logprobs=None)) as stream:
        engine = own_server.engine()
        engine.suspend()
        assert own_server.unload("all4").status_code == 200
        engine.kill()
        assert stream.rest()[-1]["error"]["code"] == "engine_died"
    until(lambda: health(own_server) == 200, "the server is back")
    assert own_server.fresh_metric("adapter_bytes") < held


def test_a_killed_loader_is_replaced(own_server: LiveServer, world: World) -> None:
    """A load that dies with its process is refused as a fault to retry; the retry works, and serving never stopped."""
    expected = own_server.answer("all4")
    folder = write_lora(world.root / "after-loader", world.shape, 6, seed=90)
    (loader,) = [child for child in own_server.children() if "loader" in child.cmdline()]
    loader.suspend()
    loading = in_background(lambda: own_server.load("after-loader", folder))
    assert own_server.answer("all4") == expected
    loader.kill()
    response = loading()
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "adapter_unavailable"
    until(lambda: own_server.load("after-loader", folder).status_code == 200, "the retry works")
    assert own_server.answer("after-loader") != own_server.answer("base")


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_server_leaves_no_process(world: World, tmp_path: Path, busy: bool) -> None:
    """SIGKILL to the server, idle or at work: its children notice, end, and remove the packed adapters."""
    folder = write_lora(tmp_path / "adapter", world.shape, 4, seed=os.getpid())
    with start(world.model, tmp_path / "log", *world.options(), "--adapter", f"own={folder}") as server:
        children = server.children()
        assert len(children) == 2
        assert images_of(folder, world)
        if busy:
            with EventStream(server, completion("all4", max_tokens=LONG)):
                os.kill(server.pid, signal.SIGKILL)
        else:
            os.kill(server.pid, signal.SIGKILL)
        until(lambda: gone(children), "the children end")
        until(lambda: not images_of(folder, world), "the packed adapters are removed")


def images_of(folder: Path, world: World) -> list[Path]:
    """The packed copies of an adapter that servers on this machine hold. Its content must be the test's own."""
    version = read_adapter(folder, world.shape).version.hash
    return [path for top in ("/dev/shm", tempfile.gettempdir()) for path in Path(top).glob(f"manylora-*/{version}*")]


def test_a_load_that_dies_with_the_engine_leaves_nothing(own_server: LiveServer, world: World) -> None:
    """The load is refused as a fault to retry, its packed copy is removed, and the retry works."""
    folder = write_lora(world.root / f"load-{os.getpid()}", world.shape, 6, seed=os.getpid())
    with own_server.engine_paused():
        loading = in_background(lambda: own_server.load("late", folder))
        until(lambda: len(images_of(folder, world)) == 1, "the adapter is packed")
        own_server.engine().kill()
        response = loading()
    assert response.status_code == 503
    left = images_of(folder, world)
    until(lambda: own_server.load("late", folder).status_code == 200, "the retry works")
    assert own_server.answer("late") != own_server.answer("base")
    assert left == []


def test_a_load_that_outlives_the_engine_ends(own_server: LiveServer, world: World) -> None:
    """An adapter that was read while one engine died and the next one came is loaded into that one, or refused: no hang."""
    folder = write_lora(world.root / "outlives", world.shape, 6, seed=92)
    (loader,) = [child for child in own_server.children() if "loader" in child.cmdline()]
    loader.suspend()
    try:
        body = {"lora_name": "outlives", "lora_path": str(folder)}
        loading = in_background(lambda: httpx.post(f"{own_server.url}/v1/load_lora_adapter", json=body, timeout=10))
        time.sleep(0.5)  # the request is on its way to the loader, which shows no sign of it
        kill_engine_and_wait(own_server)
    finally:
        loader.resume()
    assert loading().status_code in (200, 503)
    until(lambda: "outlives" in own_server.names() or own_server.load("outlives", folder).status_code == 200, "it is loaded")
    assert own_server.answer("outlives") != own_server.answer("base")


def test_an_engine_that_dies_again_while_it_starts(own_server: LiveServer) -> None:
    """A death during the restart is one more restart, not the end."""
    expected = own_server.answer("mixed")
    first = own_server.engine()
    first.kill()
    until(lambda: any(child.pid != first.pid for child in engines(own_server)), "another engine starts")
    next(child for child in engines(own_server) if child.pid != first.pid).kill()
    until(lambda: health(own_server) == 200, "the server is back")
    assert own_server.answer("mixed") == expected


def engines(server: LiveServer) -> list[psutil.Process]:
    """Engine processes of a server that changes while one looks."""
    found = []
    for child in server.children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [child] if "engine" in child.cmdline() else []
    return found
