"""Loading and unloading adapters while serving: files are checked to lie below the allowed roots, names move atomically,
and a version's memory is freed only when no name stands for it and no request uses it.

Which version a load will name is known only when it has read the files, which may take any time, so no free waits for a load.
Instead every load is told what was freed meanwhile, and begins anew if that was its own version. One lock per version keeps
"free it" and "name it" apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from manylora.errors import AdapterNotFound, AdapterRejected, EngineDied, ManyloraError, RequestError
from manylora.server.adapter_template import read_adapter_template
from manylora.server.registry import NamedAdapter, Registry, check_name
from manylora.server.template_process import TemplateProcess
from manylora.types.adapter import AdapterVersion
from manylora.types.engine import Engine

log = structlog.get_logger("manylora.server")

RETRY_SECONDS = 1.0
"""Between attempts to free an adapter while the engine is down."""


class AdapterLifecycle:
    """Changes what the registry's names stand for, and what the engine holds, together."""

    def __init__(self, engine: Engine, registry: Registry, templates: TemplateProcess, roots: tuple[Path, ...] = ()) -> None:
        self._engine = engine
        self._registry = registry
        self._templates = templates
        self._roots = tuple(root.resolve() for root in roots)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._freeing: set[str] = set()
        self._loads: list[set[str]] = []
        """For each load under way the versions whose freeing overlapped with it."""
        self._frees: set[asyncio.Task[None]] = set()

    def below_roots(self, path: str) -> Path:
        """The real path of an adapter folder that a client named, symbolic links followed. Raises RequestError."""
        shown = f"{path[:200]!r}"
        try:
            for root in self._roots:
                real = (root / path).resolve()
                if real != root and real.is_relative_to(root):
                    if not real.is_dir():
                        raise RequestError(f"lora_path {shown} is not a folder", "lora_path")
                    return real
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null character
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise RequestError(f"lora_path {shown} cannot be resolved: {reason}", "lora_path") from error
        raise RequestError(f"lora_path {shown} is not below an allowed adapter root (--adapter-root)", "lora_path")

    async def load(self, name: str, path: Path, *, replace: bool = False) -> NamedAdapter:
        """Loads the folder and makes `name` stand for it. Raises RequestError, AdapterRejected, AdapterConflict; then
        nothing has changed. With `replace` the name may exist; requests under way keep the version they started with."""
        check_name(name, "lora_name")
        if name in self._registry.base_names:
            raise RequestError(f"{name!r} is a name of the base model", "lora_name")
        before = self._registry.get(name)
        if before is not None and not replace:
            raise RequestError(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True.",
                "lora_name",
            )
        expected = None if before is None else before.version.hash
        template = await self._template(path)
        async with self._resident(path) as version:
            entry = NamedAdapter(version, path, template)
            try:
                self._registry.move(name, expected, entry)
            except ManyloraError:
                self._free_later(version.hash)
                raise
        log.info("adapter loaded", name=name, version=version.short, ranks=list(version.ranks), bytes=version.bytes)
        for warning in version.warnings:
            log.warning("adapter warning", name=name, version=version.short, warning=warning)
        if expected is not None and expected != version.hash:
            self._free_later(expected)
        return entry

    def unload(self, name: str) -> None:
        """Removes the name at once; its memory is freed when the last request that uses it has ended. Raises AdapterNotFound."""
        entry = self._registry.get(name)
        if entry is None:
            raise AdapterNotFound(f"The lora adapter '{name}' cannot be found.")
        self._registry.move(name, entry.version.hash, None)
        log.info("adapter removed", name=name, version=entry.version.short)
        self._free_later(entry.version.hash)

    async def close(self) -> None:
        """Gives up waiting to free what is still in use."""
        for task in list(self._frees):
            task.cancel()
        await asyncio.gather(*self._frees, return_exceptions=True)

    async def _template(self, path: Path) -> str | None:
        source = await asyncio.to_thread(read_adapter_template, path)
        if source is not None:
            try:
                await self._templates.check(source)
            except AdapterRejected as error:
                raise AdapterRejected(f"{path}: {error}") from error
        return source

    @asynccontextmanager
    async def _resident(self, path: Path) -> AsyncIterator[AdapterVersion]:
        """The version in the folder, resident, and not freed before the block ends."""
        freed: set[str] = set()
        self._loads.append(freed)
        try:
            while True:
                freed.clear()
                freed |= self._freeing
                version = await self._engine.load_adapter(path)
                async with self._lock(version.hash):
                    if version.hash not in freed:
                        yield version
                        return
        finally:
            self._loads[:] = [other for other in self._loads if other is not freed]

    def _lock(self, version: str) -> asyncio.Lock:
        return self._locks.setdefault(version, asyncio.Lock())

    def _free_later(self, version: str) -> None:
        task = asyncio.get_running_loop().create_task(self._free(version))
        self._frees.add(task)
        task.add_done_callback(self._frees.discard)

    async def _free(self, version: str) -> None:
        """Frees a version once nobody uses it. An engine that is down comes back with its adapters, so it is asked again."""
        while True:
            try:
                freed = await self._free_unless_named(version)
            except EngineDied:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ManyloraError as error:
                log.error("adapter not freed", version=version[:12], reason=str(error))
                return
            if freed is not None:
                log.info("adapter freed", version=version[:12], bytes=freed)
            return

    async def _free_unless_named(self, version: str) -> int | None:
        while True:
            await self._registry.idle(version)
            async with self._lock(version):
                if self._registry.refers_to(version):
                    return None
                if self._registry.in_use(version):  # named, resolved and removed while this waited for the lock
                    continue
                return await self._free_now(version)

    async def _free_now(self, version: str) -> int | None:
        self._freeing.add(version)
        for freed in self._loads:
            freed.add(version)
        try:
            return await self._engine.unload_adapter(version)
        except AdapterNotFound:  # another task freed it
            return None
        finally:
            self._freeing.remove(version)
