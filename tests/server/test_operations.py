"""Metrics, health while loading, and the life of the process: start, signals, stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from manylora.cli.byte_size import parse_bytes, show_bytes
from manylora.errors import AdapterRejected, ConfigError, ModelError
from manylora.server.config import ServerConfig
from manylora.server.process import check_adapters, listen, run

from .conftest import write_adapter
from .live import Live, make_service


def samples(live: Live) -> dict[tuple[str, str], float]:
    """(name, model) -> value of every sample without buckets."""
    with live.client() as client:
        text = client.get("/metrics").text
    return {
        (sample.name, sample.labels.get("model_name", "") + sample.labels.get("finished_reason", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_metrics_count_what_happened(live: Live) -> None:
    """Tokens, answers by ending, and latencies of each model grow by what was served."""
    live.post("/v1/completions", {"model": "zeta", "prompt": [5, 6], "max_tokens": 3})
    before = samples(live)
    live.post("/v1/completions", {"model": "zeta", "prompt": [5, 6], "max_tokens": 3, "n": 2})
    live.post("/v1/completions", {"model": "nobody", "prompt": "x"})
    after = samples(live)

    def grown(name: str, label: str = "zeta") -> float:
        return after[f"manylora:{name}", label] - before.get((f"manylora:{name}", label), 0.0)

    assert grown("prompt_tokens_total") == 2
    assert grown("generation_tokens_total") == 6
    assert grown("request_success_total", "zetalength") == 2
    assert grown("time_to_first_token_seconds_count") == 2
    assert grown("inter_token_latency_seconds_count") == 4
    assert grown("time_per_output_token_seconds_count") == 2
    assert grown("e2e_request_latency_seconds_count") == 2
    assert after["manylora:kv_cache_usage_perc", ""] == 0.0
    assert not any("nobody" in label for _, label in after), "a name that does not exist must not become a label"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def silent() -> dict[str, Any]:
    """Callbacks of `run` for a start that nobody watches."""
    return {"on_progress": lambda *_: None, "on_ready": lambda: None, "on_stopping": lambda _: None}


def test_health_says_loading_then_ok_then_stops_on_a_signal(tmp_path: Path) -> None:
    """While the engine loads, probes get 503; when it is ready 200; SIGTERM ends answers under way with an error, then all."""

    async def scenario() -> None:
        config = ServerConfig(port=0, shutdown_seconds=0.2)
        service, engine = make_service(tmp_path, config)
        gate, ready, start = asyncio.Event(), asyncio.Event(), engine.start
        stages: list[tuple[str, int, int]] = []
        stopping: list[int] = []

        async def gated() -> object:
            await gate.wait()
            return await start()

        engine.start = gated  # type: ignore[method-assign, assignment]
        engine.pause_after = 2
        adapter = write_adapter(tmp_path / "a", 1)
        with listen(config) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            running = asyncio.create_task(
                run(
                    service,
                    [("a", adapter)],
                    listener,
                    on_progress=lambda *stage: stages.append(stage),
                    on_ready=ready.set,
                    on_stopping=stopping.append,
                )
            )
            async with httpx.AsyncClient(base_url=url, timeout=20) as client:
                assert (await client.get("/health")).status_code == 503
                assert "request_failure_total{" not in (await client.get("/metrics")).text, "a probe that waits has not failed"
                assert (await client.get("/v1/models")).json()["error"]["code"] == "not_ready"
                gate.set()
                await ready.wait()
                assert (await client.get("/health")).status_code == 200
                assert (await client.head("/health")).status_code == 200
                assert stages == [("adapters", 0, 1), ("adapters", 1, 1)]
                body = {"model": "a", "prompt": "x", "stream": True}
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    os.kill(os.getpid(), signal.SIGTERM)
                    text = "".join([part async for part in response.aiter_text()])
                assert '"code":"server_stopping"' in text
                assert stopping == [1], "the operator is told once how many requests are under way"
            await running
        assert not engine.running
        assert not engine.ready

    asyncio.run(scenario())


def test_broken_adapter_at_start_is_fatal(tmp_path: Path) -> None:
    """A server is not started with less than it was asked to serve: the reason names the adapter, and the engine is stopped."""

    async def scenario() -> None:
        (tmp_path / "bad").mkdir()
        config = ServerConfig(port=0)
        service, engine = make_service(tmp_path, config)
        with listen(config) as listener, pytest.raises(AdapterRejected, match=r"'bad'.*adapter_config\.json"):
            await run(service, [("bad", tmp_path / "bad")], listener, **silent())
        assert not engine.ready

    asyncio.run(scenario())


def test_failed_engine_start_is_fatal(tmp_path: Path) -> None:
    """An engine that cannot start ends the server with its reason."""

    async def scenario() -> None:
        config = ServerConfig(port=0)
        service, engine = make_service(tmp_path, config)

        async def fails() -> None:
            raise ModelError("the weights are gone")

        engine.start = fails  # type: ignore[method-assign, assignment]
        with listen(config) as listener, pytest.raises(ModelError, match="weights are gone"):
            await run(service, [], listener, **silent())

    asyncio.run(scenario())


def test_adapters_are_checked_before_anything_slow(tmp_path: Path) -> None:
    """Names given twice, the base's name and folders that are not there stop the start at once."""
    for adapters in ([("a", tmp_path), ("a", tmp_path)], [("base", tmp_path)], [("a", tmp_path / "missing")]):
        with pytest.raises(ConfigError, match="--adapter"):
            check_adapters(adapters, ("base",))


def test_configuration_is_checked(tmp_path: Path) -> None:
    """Options that make no sense are one clear line."""
    with pytest.raises(ConfigError, match="--adapter-root"):
        ServerConfig(allow_runtime_adapters=True)
    with pytest.raises(ConfigError, match="--allow-runtime-adapters"):
        ServerConfig(adapter_roots=(tmp_path,))
    with pytest.raises(ConfigError, match="missing is not a folder"):
        ServerConfig(allow_runtime_adapters=True, adapter_roots=(tmp_path / "missing",))
    with pytest.raises(ConfigError, match="port"):
        ServerConfig(port=70000)
    with pytest.raises(ConfigError, match="log level"):
        ServerConfig(log_level="loud")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    program = "from manylora.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve", "{missing}"], "missing"),
        (["serve", "{missing}", "--memory", "lots"], "'lots' is not a size"),
        (["serve", "{missing}", "--adapter", "nopath"], "NAME=PATH"),
        (["serve", "{missing}", "--merge", "x"], "--merge x"),
        (["serve", "{missing}", "--allow-runtime-adapters"], "--adapter-root"),
        (["serve", "{missing}", "--port", "{taken}"], "cannot listen on 127.0.0.1"),
    ],
    ids=["model", "memory", "adapter", "merge", "roots", "port"],
)
def test_start_failures_are_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    """Whatever keeps the server from starting is one line on stderr and exit code 1, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        filled = [text.format(missing=tmp_path / "missing", taken=taken.getsockname()[1]) for text in arguments]
        result = command(*filled)
    assert result.returncode == 1
    assert result.stderr.startswith("manylora: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


def test_help_shows_the_defaults_of_the_config_classes() -> None:
    """--help prints every default; they are written in the dataclasses only."""
    text = " ".join(command("serve", "--help").stdout.split())
    for shown in (ServerConfig.port, ServerConfig.host, 64, 512, "2GiB"):
        assert re.search(rf"\[default: {re.escape(str(shown))}[\];]", text), shown


def test_command_imports_little() -> None:
    """`manylora --version` does not import the server or numpy."""
    program = (
        "import sys, manylora.cli.main; "
        "print([name for name in ('numpy', 'fastapi', 'tokenizers', 'uvicorn', 'pydantic') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]"
    assert command("--version").stdout.startswith("manylora ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("512MiB", 512 << 20),
        ("1.5g", 3 << 29),
        ("2GB", 2_000_000_000),
        ("100", 100),
        ("8 kb", 8000),
        ("1K", 1024),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are read as people write them, and written so that they read back."""
    assert parse_bytes(text) == size
    assert parse_bytes(show_bytes(size)) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1PB", "1 2", "1e9"])
def test_bad_sizes(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError):
        parse_bytes(text)
