"""The engine as processes: real sockets, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from manylora.engine.client import NativeEngine
from manylora.engine.config import EngineConfig
from manylora.errors import AdapterNotFound, AdapterRejected, AdapterUnavailable, EngineDied, ModelError, RequestError
from manylora.types.request import Request, RequestOutput, SamplingParams

LONG = 900


def config(model: Path, **options: object) -> EngineConfig:
    return EngineConfig(model=model, threads=1, memory_bytes=32 << 20, max_model_len=1000, **options)  # type: ignore[arg-type]


def request(id: str, adapter: str | None = None, tokens: int = 8) -> Request:
    return Request(id, [5, 6, 7, 8], SamplingParams(max_tokens=tokens, temperature=0.0), adapter)


async def collect(engine: NativeEngine, wanted: Request) -> list[int]:
    return [token async for output in engine.generate(wanted) for token in output.tokens]


async def _rest(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


def with_engine(model: Path, body: Callable[[NativeEngine], Awaitable[None]], **options: object) -> None:
    """Runs `body` with a started engine; afterwards no child and no image is left."""

    async def main() -> None:
        engine = NativeEngine(config(model, **options))
        await engine.start()
        children = psutil.Process().children(recursive=True)
        folder = engine.images_folder
        try:
            await asyncio.wait_for(body(engine), 60)
        finally:
            await engine.stop()
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert folder is not None
        assert not folder.exists()

    asyncio.run(main())


def test_generates_with_base_and_adapters_at_once(tiny: Path, tiny_adapters: dict[str, Path]) -> None:
    """Requests of different versions run together, and each gets the answer of its own version."""

    async def body(engine: NativeEngine) -> None:
        versions = [None, *[(await engine.load_adapter(folder)).hash for folder in tiny_adapters.values()]]
        alone = [await collect(engine, request(f"a{n}", version)) for n, version in enumerate(versions)]
        together = await asyncio.gather(*(collect(engine, request(f"b{n}", version)) for n, version in enumerate(versions)))
        assert together == alone
        assert len({tuple(tokens) for tokens in alone}) == len(versions)

    with_engine(tiny, body)


def test_killed_engine_fails_requests_at_once_and_comes_back_with_its_adapters(
    tiny: Path, tiny_adapters: dict[str, Path]
) -> None:
    """SIGKILL: requests in flight get an error immediately, later ones succeed within seconds, with the same bits."""

    async def body(engine: NativeEngine) -> None:
        version = (await engine.load_adapter(tiny_adapters["all4"])).hash
        before = await collect(engine, request("before", version))
        running = engine.generate(request("running", version, LONG))
        await anext(running)
        assert engine.engine_pid is not None
        os.kill(engine.engine_pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await asyncio.wait_for(_rest(running), 2)
        with pytest.raises(EngineDied, match="starting"):
            await collect(engine, request("too early", version))
        while not engine.ready:  # noqa: ASYNC110 - an operator polls too
            await asyncio.sleep(0.05)
        assert await collect(engine, request("after", version)) == before
        assert engine.stats.restarts == 1

    with_engine(tiny, body)


def test_killed_loader_fails_the_load_and_is_replaced(tiny: Path, tiny_adapters: dict[str, Path]) -> None:
    """A load that dies with its process is an error to retry, and the retry works."""

    async def body(engine: NativeEngine) -> None:
        (loader,) = [p for p in psutil.Process().children() if "loader" in p.cmdline()]
        loader.suspend()
        load = asyncio.create_task(engine.load_adapter(tiny_adapters["qv8"]))
        await asyncio.sleep(0.1)
        loader.kill()
        with pytest.raises(AdapterUnavailable):
            await load
        await asyncio.sleep(0.2)
        version = await engine.load_adapter(tiny_adapters["qv8"])
        assert await collect(engine, request("served", version.hash))

    with_engine(tiny, body)


def test_closing_a_stream_stops_its_work(tiny: Path) -> None:
    """A client that goes away costs nothing more: its request leaves the batch and its memory is back."""

    async def body(engine: NativeEngine) -> None:
        stream: AsyncIterator[RequestOutput] = engine.generate(request("gone", tokens=LONG))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await collect(engine, request("next", tokens=2))
        assert (engine.stats.running, engine.stats.kv_blocks_used) == (0, 0)

    with_engine(tiny, body)


def test_loads_and_unloads_while_others_stream(tiny: Path, tiny_adapters: dict[str, Path]) -> None:
    """An adapter comes, serves and goes during a stream, which loses nothing; loading the same content twice is one adapter."""

    async def body(engine: NativeEngine) -> None:
        expected = await collect(engine, request("alone", tokens=LONG))
        over = asyncio.Event()

        async def stream() -> int:
            rounds = 0
            while not over.is_set():
                assert await collect(engine, request(f"stream{rounds}", tokens=LONG)) == expected
                rounds += 1
            return rounds

        streams = asyncio.create_task(stream())
        first, second = await asyncio.gather(*(engine.load_adapter(tiny_adapters["mixed"]) for _ in range(2)))
        assert first.hash == second.hash
        await collect(engine, request("served", first.hash))
        assert await engine.unload_adapter(first.hash) > 0
        with pytest.raises(AdapterNotFound):
            await collect(engine, request("late", first.hash))
        with pytest.raises(AdapterNotFound):
            await engine.unload_adapter(first.hash)
        over.set()
        assert await streams >= 1
        assert engine.stats.adapter_bytes == 0

    with_engine(tiny, body)


def test_a_reload_during_an_unload_keeps_the_adapter(tiny: Path, tiny_adapters: dict[str, Path]) -> None:
    """The last request of an unloaded version still runs when the same content is loaded again: the unload ends without freeing,
    and the adapter serves on, also after the request has ended and after the engine was replaced."""

    async def body(engine: NativeEngine) -> None:
        version = (await engine.load_adapter(tiny_adapters["mixed"])).hash
        stream = engine.generate(request("running", version, LONG))
        await anext(stream)
        unload = asyncio.create_task(engine.unload_adapter(version))
        await asyncio.sleep(0)
        assert (await engine.load_adapter(tiny_adapters["mixed"])).hash == version
        assert await asyncio.wait_for(unload, 5) in (0, engine.stats.adapter_bytes)
        await _rest(stream)
        before = await collect(engine, request("after", version))
        assert engine.engine_pid is not None
        os.kill(engine.engine_pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        while not engine.ready:  # noqa: ASYNC110 - an operator polls too
            await asyncio.sleep(0.05)
        assert await collect(engine, request("replaced", version)) == before

    with_engine(tiny, body)


def test_a_broken_adapter_is_refused_and_the_engine_serves_on(tiny: Path, tmp_path: Path) -> None:
    """The reason reaches the caller in one line; nothing else changes."""
    (tmp_path / "adapter_config.json").write_text("{}")

    async def body(engine: NativeEngine) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(AdapterRejected) as caught:
                await engine.load_adapter(folder)
            assert "\n" not in str(caught.value)
        assert await collect(engine, request("fine"))

    with_engine(tiny, body)


def test_a_request_that_cannot_fit_is_refused_with_its_reason(tiny: Path) -> None:
    """Refusals cross the process border as the exceptions they are."""

    async def body(engine: NativeEngine) -> None:
        with pytest.raises(RequestError, match="1000 tokens") as caught:
            await collect(engine, Request("long", [1] * 1000, SamplingParams()))
        assert caught.value.param == "prompt"

    with_engine(tiny, body)


def test_a_model_that_cannot_be_read_fails_the_start_with_its_reason(tmp_path: Path) -> None:
    """Start-up errors are one line of the tree, and leave no process behind."""
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')

    async def main() -> None:
        engine = NativeEngine(config(tmp_path))
        with pytest.raises(ModelError, match="gpt2"):
            await engine.start()
        assert not psutil.Process().children()

    asyncio.run(main())


def test_children_end_when_the_server_is_killed(tiny: Path) -> None:
    """SIGKILL of the parent: engine and loader notice and end, and the images are removed."""
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom manylora.engine.client import NativeEngine\n"
        "from manylora.engine.config import EngineConfig\n"
        f"config = EngineConfig(model=Path({str(tiny)!r}), threads=1, memory_bytes=32 << 20, max_model_len=256)\n"
        "async def main():\n"
        "    engine = NativeEngine(config)\n"
        "    await engine.start()\n"
        "    print(engine.images_folder, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        assert folder.is_dir()
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (folder.exists() or any(child.is_running() for child in children)):
        time.sleep(0.05)
    assert not folder.exists()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
