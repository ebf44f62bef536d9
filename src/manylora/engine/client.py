"""The native engine as the server sees it: two child processes, supervised, behind the Engine contract."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from manylora.engine.child import Child
from manylora.engine.config import EngineConfig
from manylora.engine.image import AdapterImage
from manylora.engine.mailbox import Mailbox
from manylora.engine.messages import (
    Abort,
    Attach,
    Attached,
    Detach,
    Detached,
    EngineStart,
    Fault,
    FromEngine,
    FromLoader,
    LoaderStart,
    Prepare,
    Prepared,
    Progress,
    Ready,
    Refused,
    StartFailed,
    Stepped,
    Submit,
)
from manylora.engine.weights import OnProgress
from manylora.errors import AdapterNotFound, AdapterUnavailable, EngineDied, EngineStopped, ManyloraError
from manylora.kernels import choose_capability
from manylora.types.adapter import AdapterVersion
from manylora.types.engine import EngineInfo, EngineStats
from manylora.types.request import Request, RequestOutput

log = structlog.get_logger(__name__)

RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Pause before each restart in a row; the last repeats. A minute of service starts the row anew."""
STABLE_SECONDS = 60.0
LOAD_SECONDS = 120.0
"""For the loader to read, check and pack one adapter, the wait for those before it included."""
SHARED_MEMORY = "/dev/shm"
"""Where images lie if it exists: a file system in memory."""


def _quiet(stage: str, done: int, total: int) -> None:
    pass


class NativeEngine:
    """The CPU engine. See `manylora.types.engine.Engine` for the contract."""

    def __init__(self, config: EngineConfig, on_progress: OnProgress = _quiet) -> None:
        self._config = config
        self._on_progress = on_progress
        self._capability = choose_capability(os.environ)
        self._info: EngineInfo | None = None
        self._extent_bytes = 0
        self._stats = EngineStats()
        self._restarts = 0
        self._ready = False
        self._engine: Child | None = None
        self._loader: Child | None = None
        self.images_folder: Path | None = None
        """Where packed adapters lie while the engine lives; it is the engine's own."""
        self._images: dict[str, AdapterImage] = {}
        self._mailboxes: dict[str, Mailbox] = {}
        self._attaching: dict[str, asyncio.Future[None]] = {}
        self._detaching: dict[str, asyncio.Future[int]] = {}
        self._preparing: dict[int, asyncio.Future[AdapterImage]] = {}
        self._loads = 0
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life -------------------------------------------------------------------------------------------------------------------

    async def start(self) -> EngineInfo:
        """See Engine.start."""
        folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self.images_folder = Path(tempfile.mkdtemp(prefix="manylora-", dir=folder))
        try:
            self._info = await self._start_engine()
            await self._start_loader()
            self._spawn(self._supervise_loader())
        except BaseException:
            await self.stop()
            raise
        self._spawn(self._supervise())
        self._ready = True
        return self._info

    async def stop(self) -> None:
        """See Engine.stop."""
        self._ready = False
        for task in list(self._tasks):
            task.cancel()
        self._fail_everything(EngineStopped("the server is stopping"))
        for child in (self._engine, self._loader):
            if child is not None:
                await child.stop()
        self._engine = self._loader = None
        if self.images_folder is not None:
            shutil.rmtree(self.images_folder, ignore_errors=True)

    @property
    def ready(self) -> bool:
        """See Engine.ready."""
        return self._ready

    @property
    def stats(self) -> EngineStats:
        """See Engine.stats."""
        return self._stats

    @property
    def engine_pid(self) -> int | None:
        """The engine's process id, for operators and tests."""
        return None if self._engine is None else self._engine.pid

    # -- requests ---------------------------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """See Engine.generate."""
        engine = self._serving()
        mailbox = Mailbox()
        self._mailboxes[request.id] = mailbox
        engine.send(Submit(request))
        ended = False
        try:
            while not ended:
                try:
                    output = await mailbox.get()
                except ManyloraError:
                    ended = True
                    raise
                ended = output.finish_reason is not None
                yield output
        finally:
            del self._mailboxes[request.id]
            if not ended and self._engine is not None:
                self._engine.send(Abort(request.id))

    # -- adapters ---------------------------------------------------------------------------------------------------------------

    async def load_adapter(self, path: Path) -> AdapterVersion:
        """See Engine.load_adapter."""
        self._serving()
        self._loads += 1
        try:
            image = await self._prepare(path)
            await self._attach(image)
        finally:
            self._loads -= 1
            self._sweep_images()
        return image.version

    async def _attach(self, image: AdapterImage) -> None:
        version = image.version.hash
        if version not in self._images:
            arrival = self._attaching.get(version)
            if arrival is None:
                engine = self._serving()  # perhaps another one than before the adapter was read
                arrival = self._attaching[version] = asyncio.get_running_loop().create_future()
                engine.send(Attach(image))
            await asyncio.shield(arrival)
            self._images[version] = image

    def _sweep_images(self) -> None:
        """Removes packed copies that did not become resident; not while another load may be about to attach one of them."""
        if self._loads == 0 and self.images_folder is not None:
            for path in self.images_folder.iterdir():
                if path.suffix == ".partial" or path.stem not in self._images:
                    path.unlink(missing_ok=True)

    async def unload_adapter(self, version: str) -> int:
        """See Engine.unload_adapter."""
        if version not in self._images or version in self._detaching:
            raise AdapterNotFound(f"no adapter {version[:12]} is loaded")
        image = self._images.pop(version)
        if not self._ready or self._engine is None:
            # The process that held it is gone, and the next one is given what is in `_images`.
            image.path.unlink(missing_ok=True)
            return image.extents * image.extent_bytes
        engine = self._engine
        departure: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._detaching[version] = departure
        engine.send(Detach(version))
        freed = await asyncio.shield(departure)
        self._sweep_images()
        return freed

    async def _prepare(self, path: Path) -> AdapterImage:
        if self._loader is None:
            raise AdapterUnavailable("the loader process is being restarted; try again in a few seconds")
        number = next(self._numbers)
        answer: asyncio.Future[AdapterImage] = asyncio.get_running_loop().create_future()
        self._preparing[number] = answer
        self._loader.send(Prepare(number, path))
        try:
            return await asyncio.wait_for(answer, LOAD_SECONDS)
        except TimeoutError as error:
            if self._loader is not None:
                self._loader.kill()  # whatever it hangs on, others wait behind it
            raise AdapterUnavailable(f"reading the adapter took longer than {LOAD_SECONDS:.0f} s; try again later") from error
        finally:
            del self._preparing[number]

    def _serving(self) -> Child:
        if not self._ready or self._engine is None:
            raise EngineDied("the engine is starting; try again in a few seconds")
        return self._engine

    # -- supervision ------------------------------------------------------------------------------------------------------------

    async def _start_engine(self) -> EngineInfo:
        child = await Child.start("engine", EngineStart(self._config, self._capability), FromEngine)
        self._engine = child
        while True:
            match await child.receive():
                case Progress(stage, done, total):
                    self._on_progress(stage, done, total)
                case Ready(info, extent_bytes):
                    self._extent_bytes = extent_bytes
                    return info
                case StartFailed(fault):
                    await child.stop()
                    raise fault.raised()
                case _:
                    raise EngineDied(f"the engine process ended while starting, with exit code {await child.stop()}")

    async def _start_loader(self) -> None:
        assert self._info is not None
        assert self.images_folder is not None
        self.images_folder.mkdir(exist_ok=True)
        first = LoaderStart(self._info.shape, self._extent_bytes, self.images_folder, self._config.model.stem)
        self._loader = await Child.start("loader", first, FromLoader)

    async def _supervise(self) -> None:
        failures = 0
        while True:
            started = asyncio.get_running_loop().time()
            await self._read_engine()
            self._ready = False
            self._restarts += 1
            self._stats = EngineStats(restarts=self._restarts)
            assert self._engine is not None
            code = await self._engine.stop()
            log.error("engine died", exit_code=code, in_flight=len(self._mailboxes), restarts=self._restarts)
            self._fail_everything(EngineDied("the engine process ended while it worked on this request; it is being restarted"))
            failures = 0 if asyncio.get_running_loop().time() - started > STABLE_SECONDS else failures
            while not self._ready:
                await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
                failures += 1
                self._ready = await self._restart()

    async def _restart(self) -> bool:
        try:
            await self._start_engine()
        except (ManyloraError, OSError) as error:
            log.error("engine did not restart", reason=str(error))
            return False
        assert self._engine is not None
        for image in self._images.values():
            self._engine.send(Attach(image))
        # The engine takes messages in order, and copies an idle engine's arrivals whole: requests sent from now on find them.
        log.info("engine restarted", adapters=len(self._images))
        return True

    async def _read_engine(self) -> None:
        assert self._engine is not None
        while (message := await self._engine.receive()) is not None:
            match message:
                case Stepped(outputs, stats):
                    self._stats = replace(stats, restarts=self._restarts)
                    for output in outputs:
                        if (mailbox := self._mailboxes.get(output.id)) is not None:
                            mailbox.put(output)
                case Refused(id, fault):
                    if (mailbox := self._mailboxes.get(id)) is not None:
                        mailbox.fail(fault.raised())
                case Attached(version, fault):
                    if fault is not None and version not in self._attaching and self._images.pop(version, None) is not None:
                        log.error("adapter did not come back", version=version[:12], reason=fault.message)
                    _settle(self._attaching.pop(version, None), None, fault)
                case Detached(version, freed, fault):
                    _settle(self._detaching.pop(version, None), freed, fault)

    async def _supervise_loader(self) -> None:
        failures = 0
        while True:
            await self._read_loader()
            assert self._loader is not None
            dead, self._loader = self._loader, None
            log.error("loader died", exit_code=await dead.stop(), waiting=len(self._preparing))
            for answer in self._preparing.values():
                _settle(answer, None, AdapterUnavailable("the loader process ended while it read the adapter; try again"))
            while self._loader is None:
                await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
                failures += 1
                try:
                    await self._start_loader()
                except OSError as error:
                    log.error("loader did not restart", reason=str(error))

    async def _read_loader(self) -> None:
        assert self._loader is not None
        while (message := await self._loader.receive()) is not None:
            match message:
                case Prepared(number, image, fault):
                    _settle(self._preparing.get(number), image, fault)

    def _fail_everything(self, error: ManyloraError) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.fail(error)
        for arrival in self._attaching.values():
            _settle(arrival, None, error)
        self._attaching.clear()
        for departure in self._detaching.values():
            _settle(departure, 0, None)  # what the process held is free
        self._detaching.clear()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                log.error("supervision failed", exc_info=error)


def _settle(future: asyncio.Future[Any] | None, value: object, failure: Fault | ManyloraError | None) -> None:
    if future is None or future.done():
        return
    if failure is None:
        future.set_result(value)
    else:
        future.set_exception(failure.raised() if isinstance(failure, Fault) else failure)
