"""Loads, frees and requests of adapters in every order: what is named or used is there, what is neither is freed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from manylora.errors import AdapterConflict, RequestError
from manylora.server.config import ServerConfig
from manylora.server.registry import Lease
from manylora.server.service import Service
from manylora.types.adapter import AdapterVersion

from .conftest import write_adapter
from .live import make_service
from .scripted_engine import ScriptedEngine


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until the condition holds; fails after some thousand turns."""
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


def test_a_load_that_hangs_stops_no_free(tmp_path: Path) -> None:
    """While the files of one adapter cannot be read, the memory of another is still given back."""

    async def scenario() -> None:
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        await service.lifecycle.load("x", write_adapter(tmp_path / "x", 1))
        load_adapter, gate = engine.load_adapter, asyncio.Event()

        async def hanging(path: Path) -> AdapterVersion:
            await gate.wait()
            return await load_adapter(path)

        engine.load_adapter = hanging  # type: ignore[method-assign]
        loading = asyncio.create_task(service.lifecycle.load("y", write_adapter(tmp_path / "y", 2)))
        await asyncio.sleep(0)
        service.lifecycle.unload("x")
        await until(lambda: not engine.versions)
        assert not loading.done()
        gate.set()
        entry = await loading
        assert set(engine.versions) == {entry.version.hash}
        await service.lifecycle.close()

    asyncio.run(scenario())


def test_content_freed_during_its_load_is_loaded_again(tmp_path: Path) -> None:
    """A version that was freed after the engine named it to a load, or is being freed then, is resident when it has ended."""

    async def scenario() -> None:
        folder = write_adapter(tmp_path / "a", 1)
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        load_adapter, unload_adapter, asked, gate = engine.load_adapter, engine.unload_adapter, [], asyncio.Event()
        await service.lifecycle.load("x", folder)

        async def counted(path: Path) -> AdapterVersion:
            asked.append(path)
            return await load_adapter(path)

        async def slowly(version: str) -> int:
            await gate.wait()
            return await unload_adapter(version)

        engine.load_adapter, engine.unload_adapter = counted, slowly  # type: ignore[method-assign]
        service.lifecycle.unload("x")
        await asyncio.sleep(0)
        loading = asyncio.create_task(service.lifecycle.load("y", folder))
        await until(lambda: len(asked) == 1)
        gate.set()
        entry = await loading
        assert len(asked) == 2
        assert set(engine.versions) == {entry.version.hash}
        await service.lifecycle.close()

    asyncio.run(scenario())


def test_a_version_in_use_is_not_freed(tmp_path: Path) -> None:
    """A version that was named, resolved and removed again while its free waited stays until that request has ended."""

    async def scenario() -> None:
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        entry = await service.lifecycle.load("x", write_adapter(tmp_path / "x", 1))
        version = entry.version.hash
        async with service.lifecycle._lock(version):
            service.lifecycle.unload("x")
            for _ in range(10):
                await asyncio.sleep(0)
            service.registry.move("y", None, entry)
            lease = service.registry.resolve("y")
            service.registry.move("y", version, None)
        for _ in range(10):
            await asyncio.sleep(0)
        assert version in engine.versions
        lease.release()
        await until(lambda: version not in engine.versions)
        await service.lifecycle.close()

    asyncio.run(scenario())


def dawdling(engine: ScriptedEngine, chance: random.Random) -> None:
    """Lets loads and unloads of the engine take some turns of the loop before and after they work."""
    load_adapter, unload_adapter = engine.load_adapter, engine.unload_adapter

    async def pause() -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)

    async def load(path: Path) -> AdapterVersion:
        await pause()
        version = await load_adapter(path)
        await pause()
        return version

    async def unload(version: str) -> int:
        await pause()
        freed = await unload_adapter(version)
        await pause()
        return freed

    engine.load_adapter, engine.unload_adapter = load, unload  # type: ignore[method-assign]


async def play(service: Service, engine: ScriptedEngine, folders: list[Path], chance: random.Random) -> None:
    """Some hundred random loads, removals and requests. A version that a request got is there until its end."""
    loads: set[asyncio.Task[object]] = set()
    leases: list[Lease] = []
    for _ in range(300):
        name = chance.choice(("p", "q"))
        match chance.randrange(5):
            case 0:
                load = service.lifecycle.load(name, chance.choice(folders), replace=chance.random() < 0.5)
                loads.add(asyncio.create_task(load))
            case 1 if service.registry.get(name):
                service.lifecycle.unload(name)
            case 2 if service.registry.get(name):
                leases.append(service.registry.resolve(name))
            case 3 if leases:
                leases.pop(chance.randrange(len(leases))).release()
        await asyncio.sleep(0)
        assert {lease.version for lease in leases} <= set(engine.versions)
        assert {entry.version.hash for _, entry in service.registry.adapters()} <= set(engine.versions)
    for result in await asyncio.gather(*loads, return_exceptions=True):
        assert not isinstance(result, BaseException) or isinstance(result, RequestError | AdapterConflict)
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("seed", range(25))
def test_every_order(seed: int, tmp_path: Path) -> None:
    """Whatever the order of loads, removals and requests: nothing named or used is missing, and in the end all is free."""

    async def scenario() -> None:
        chance = random.Random(seed)
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        dawdling(engine, chance)
        await play(service, engine, [write_adapter(tmp_path / str(rank), rank) for rank in (1, 2)], chance)
        for name, _ in service.registry.adapters():
            service.lifecycle.unload(name)
        await until(lambda: not engine.versions and not service.lifecycle._frees)
        await service.lifecycle.close()

    asyncio.run(scenario())
