"""The life of the server process: listen, start the engine, load adapters, serve, stop on a signal with nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from manylora.errors import AdapterError, AdapterRejected, ConfigError
from manylora.server.app import create_app
from manylora.server.config import ServerConfig
from manylora.server.registry import check_name
from manylora.server.service import Service
from manylora.types.engine import EngineInfo

Adapters = Sequence[tuple[str, Path]]
OnProgress = Callable[[str, int, int], None]
"""(stage, done, total), as the engine's own progress."""
OnStopping = Callable[[int], None]
"""Told once, when a signal stops the server: how many requests are under way."""
KEEP_ALIVE_SECONDS = 75


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket, taken before anything slow begins. Raises ConfigError."""
    where = f"{config.host}:{config.port}"
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}; choose another with --host or --port") from error
    listener.setblocking(False)
    return listener


def check_adapters(adapters: Adapters, base_names: tuple[str, ...]) -> None:
    """Raises ConfigError for names that cannot be served and folders that are not there, before anything slow begins."""
    seen: set[str] = set()
    for name, path in adapters:
        check_name(name, "--adapter")
        if name in seen or name in base_names:
            raise ConfigError(f"--adapter {name}: the name is given twice or is the base model's")
        if not path.is_dir():
            raise ConfigError(f"--adapter {name}: {path} is not a folder")
        seen.add(name)


async def run(
    service: Service,
    adapters: Adapters,
    listener: socket.socket,
    *,
    on_progress: OnProgress,
    on_ready: Callable[[], None],
    on_stopping: OnStopping,
) -> None:
    """Serves until SIGINT or SIGTERM. Answers 503 while the engine loads. Raises ModelError, ConfigError or AdapterRejected
    if the start fails; whatever happens, the engine has been stopped when it returns."""
    server = _Server(
        uvicorn.Config(
            create_app(service),
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            # Longer than clients and proxies keep idle connections: the side that reuses one must not be the second to close.
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            server_header=False,
            timeout_graceful_shutdown=int(service.config.shutdown_seconds) + 2,
        )
    )
    stopping = asyncio.Event()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    waiting = asyncio.create_task(stopping.wait())
    starting = asyncio.create_task(_start(service, adapters, on_progress))
    with _signals(stopping):
        try:
            await asyncio.wait((starting, waiting, serving), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                service.info = starting.result()
                on_ready()
                await asyncio.wait((waiting, serving), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                on_stopping(len(server.server_state.tasks))
        finally:
            for task in (starting, waiting):
                task.cancel()
            await asyncio.gather(starting, waiting, return_exceptions=True)
            await _shut_down(server, serving, service)


async def _start(service: Service, adapters: Adapters, on_progress: OnProgress) -> EngineInfo:
    info = await service.engine.start()
    for done, (name, path) in enumerate(adapters):
        on_progress("adapters", done, len(adapters))
        try:
            await service.lifecycle.load(name, path)
        except AdapterError as error:
            raise AdapterRejected(f"adapter {name!r}: {error}") from error
    if adapters:
        on_progress("adapters", len(adapters), len(adapters))
    return info


async def _shut_down(server: uvicorn.Server, serving: asyncio.Task[None], service: Service) -> None:
    """Answers under way get some seconds; then they end with an error the client can read, not with a cut connection."""
    server.should_exit = True
    await asyncio.wait((serving,), timeout=service.config.shutdown_seconds)
    await service.close()
    await service.engine.stop()
    await serving


class _Server(uvicorn.Server):
    """Signals are handled here, from before the engine starts until after it has stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
