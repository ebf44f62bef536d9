"""Which names are served, and by what. Names move by compare-and-set; whoever resolved a name keeps the version it got.

Contract: every method is called on the event loop's thread and none awaits, except `idle`. `resolve` takes a lease that the
caller must release exactly once; while a version is leased, `idle` does not return and nobody frees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manylora.errors import AdapterConflict, AdapterNotFound, RequestError
from manylora.types.adapter import AdapterVersion

MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """What a name stands for: a version, the folder it was read from, and the chat template it brought, if any."""

    version: AdapterVersion
    path: Path
    chat_template: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time, seconds."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A resolved model name. `adapter` is None for the base model. Call `release` once the answer has ended."""

    name: str
    adapter: NamedAdapter | None
    release: Callable[[], None]
    merged: AdapterVersion | None = None
    """The adapter that is part of the base weights, if one is."""

    @property
    def version(self) -> str | None:
        """The hash the engine is asked for; None for the base weights."""
        return None if self.adapter is None else self.adapter.version.hash

    @property
    def answers(self) -> AdapterVersion | None:
        """The adapter version that answers, merged or not; None is the plain base model."""
        return self.merged if self.adapter is None else self.adapter.version


def check_name(name: str, param: str) -> str:
    """`name` if it can name an adapter: 1 to 128 printable characters, no space at its ends, no '/', no '@' (kept for versions).

    Raises RequestError."""
    if not name or len(name) > MAX_NAME:
        raise RequestError(f"{param} must have 1 to {MAX_NAME} characters, not {len(name)}", param)
    if not name.isprintable() or name != name.strip():
        raise RequestError(f"{param} must be printable, without spaces at its ends: {name!r}", param)
    if "/" in name or "@" in name or name in (".", ".."):
        raise RequestError(f"{param} must not contain '/' or '@': {name!r}", param)
    return name


def unknown_model(name: str) -> AdapterNotFound:
    """The fault of asking for a name that stands for nothing. A name is repeated only as far as it could be one."""
    shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
    return AdapterNotFound(f"The model {shown!r} does not exist; GET /v1/models lists those that do")


class Registry:
    """Names of the base model and of adapters, in memory. `merged` is the adapter that was merged into the base weights."""

    def __init__(self, base_names: tuple[str, ...], merged: AdapterVersion | None = None) -> None:
        self.base_names = base_names
        self.merged = merged
        self._adapters: dict[str, NamedAdapter] = {}
        self._leases: dict[str, int] = {}
        self._idle: dict[str, asyncio.Event] = {}

    def adapters(self) -> Iterator[tuple[str, NamedAdapter]]:
        """Every adapter name with what it stands for, oldest first."""
        return iter(list(self._adapters.items()))

    def get(self, name: str) -> NamedAdapter | None:
        """What an adapter name stands for now."""
        return self._adapters.get(name)

    def refers_to(self, version: str) -> bool:
        """Whether any name stands for this version."""
        return any(entry.version.hash == version for entry in self._adapters.values())

    def resolve(self, model: str) -> Lease:
        """Who answers for `model`, held until released. Raises AdapterNotFound."""
        entry = self._adapters.get(model)
        if entry is not None:
            version = entry.version.hash
            self._leases[version] = self._leases.get(version, 0) + 1
            return Lease(model, entry, lambda: self._release(version))
        if model in self.base_names:
            return Lease(model, None, lambda: None, self.merged)
        raise unknown_model(model)

    def move(self, name: str, expected: str | None, entry: NamedAdapter | None) -> None:
        """Makes `name` stand for `entry` (None removes it) if it stands for version `expected` now (None: for nothing).

        Raises AdapterConflict and changes nothing if it does not, or if the name is the base model's."""
        if name in self.base_names:
            raise AdapterConflict(f"{name!r} is a name of the base model")
        current = self._adapters.get(name)
        found = None if current is None else current.version.hash
        if found != expected:
            raise AdapterConflict(f"adapter {name!r} changed meanwhile: expected {_short(expected)}, found {_short(found)}")
        if entry is None:
            self._adapters.pop(name, None)
        else:
            self._adapters[name] = entry

    def in_use(self, version: str) -> int:
        """How many leases hold `version`."""
        return self._leases.get(version, 0)

    async def idle(self, version: str) -> None:
        """Returns when no lease holds `version`."""
        while self._leases.get(version):
            await self._idle.setdefault(version, asyncio.Event()).wait()

    def _release(self, version: str) -> None:
        left = self._leases[version] - 1
        if left:
            self._leases[version] = left
            return
        del self._leases[version]
        event = self._idle.pop(version, None)
        if event is not None:
            event.set()


def _short(version: str | None) -> str:
    return "no version" if version is None else version[:12]
