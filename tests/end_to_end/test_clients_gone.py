"""A client that goes away takes its work with it; one that does not read holds up nobody."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import EventStream, LiveServer, completion, until
from tests.engine.harness import write_lora

TOKENS = 4000


def send(server: LiveServer, body: dict[str, object]) -> socket.socket:
    """Sends a completion request on a connection of its own; nothing is read."""
    content = json.dumps(body).encode()
    host, port = server.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    sock.sendall(head.encode() + content)
    return sock


def work_under_way(server: LiveServer, before: float) -> None:
    until(lambda: server.metric("engine_generation_tokens_total") > before, "the request is being worked on")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 4])
def test_a_client_that_goes_away_frees_its_requests(server: LiveServer, n: int, stream: bool) -> None:
    """Whole or streamed, one answer or several: the work stops, none of it is finished, nothing keeps running."""
    tokens = server.fresh_metric("engine_generation_tokens_total")
    aborted = server.metric("request_success_total", finished_reason="abort")
    sock = send(server, completion("all4", n=n, max_tokens=TOKENS, temperature=1, logprobs=None, stream=stream))
    work_under_way(server, tokens)
    with server.engine_paused():
        sock.close()
        until(
            lambda: server.metric("request_success_total", finished_reason="abort") == aborted + n,
            "the server notices that the client is gone",
        )
    assert server.fresh_metric("num_requests_running") == 0
    assert server.metric("engine_generation_tokens_total") - tokens < n * TOKENS
    assert server.metric("kv_cache_usage_perc") == 0


def test_clients_that_go_before_they_are_served(server: LiveServer) -> None:
    """Sixteen that leave while they wait cost nothing; others are answered as before."""
    expected = server.answer("qv8")
    aborted = server.metric("request_success_total", finished_reason="abort")
    accepted = server.metric("request_prompt_tokens_count", model_name="qv8")
    with server.engine_paused():
        socks = [send(server, completion("qv8", [7] * (20 + place), max_tokens=TOKENS)) for place in range(16)]
        until(lambda: server.metric("request_prompt_tokens_count", model_name="qv8") == accepted + 16, "all are accepted")
        for sock in socks:
            sock.close()
        until(
            lambda: server.metric("request_success_total", finished_reason="abort") == aborted + 16,
            "the server notices that all are gone",
        )
    assert server.answer("qv8") == expected
    assert server.fresh_metric("num_requests_running") == 0


def test_a_client_gone_gives_its_adapter_back(server: LiveServer, world: World) -> None:
    """After a stream was cut, its adapter can be unloaded, and its bytes are free."""
    held = server.fresh_metric("adapter_bytes")
    folder = write_lora(world.root / "cut", world.shape, 6, seed=80)
    try:
        assert server.load("cut", folder).status_code == 200
        with EventStream(server, completion("cut", max_tokens=TOKENS, logprobs=None)):
            assert server.unload("cut").status_code == 200
        until(lambda: server.fresh_metric("adapter_bytes") == held, "the adapter's bytes are free")
    finally:
        shutil.rmtree(folder)


def test_a_client_that_does_not_read_holds_up_nobody(server: LiveServer) -> None:
    """With streams that nobody reads, others are answered the same; read at last, those streams are whole."""
    expected = server.answer("mlp3")
    long = server.answer("mixed", max_tokens=2000)["text"]
    body = completion("mixed", max_tokens=2000)
    with EventStream(server, body) as first, EventStream(server, body) as second:
        for _ in range(3):
            assert server.answer("mlp3") == expected
        assert first.text() == second.text() == long
        assert first.done
        assert second.done


def test_an_idle_server_reports_that_nothing_runs(server: LiveServer) -> None:
    """When the only client has gone, the metrics say so without another request."""
    with EventStream(server, completion("all4", max_tokens=TOKENS, logprobs=None)):
        pass
    for _ in range(100):
        if server.metric("num_requests_running") == 0:
            return
        server.http.get("/health")
    raise AssertionError("the metrics still show a running request")


def test_an_idle_server_reports_the_bytes_of_its_adapters(server: LiveServer, world: World) -> None:
    """A load shows in the metrics as soon as it has succeeded, without any request."""
    folder = write_lora(world.root / "idle", world.shape, 6, seed=81)
    held = server.fresh_metric("adapter_bytes")
    try:
        assert server.load("idle", folder).status_code == 200
        assert server.metric("adapter_bytes") > held
    finally:
        shutil.rmtree(folder)
