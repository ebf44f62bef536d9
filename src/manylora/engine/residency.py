"""Resident adapters: copies images into the arena, a bounded number of bytes at a time, and counts who uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from manylora import kernels
from manylora.engine.image import AdapterImage
from manylora.errors import AdapterConflict, AdapterNotFound, AdapterUnavailable
from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import KvBlocks

COPY_BYTES_PER_STEP = 4 << 20
"""Copied between two steps: about a millisecond, so that running streams do not notice."""

POPULATE_BYTES = 4 << 20
"""Made real at a time while idle: some milliseconds, the longest that a request may have to wait for it."""


@dataclass(slots=True)
class Arrival:
    """An image on its way into the arena."""

    image: AdapterImage
    timeout: int
    """Nanoseconds that it may wait for memory once it is its turn."""
    deadline: int | None = None
    copied: int = 0


@dataclass(slots=True)
class Resident:
    """An adapter the kernels can use."""

    image: AdapterImage
    handle: kernels.Adapter
    references: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """An arrival came to its end: the adapter is resident, or `error` says why not."""

    version: str
    error: AdapterUnavailable | None = None


@dataclass(frozen=True, slots=True)
class Freed:
    """A retired adapter's extents are back."""

    version: str
    bytes: int


Settled = Arrived | Freed


@dataclass(slots=True)
class Residency:
    """Which adapters are in the arena.

    A version is arriving, resident, or retired (resident, closed to new requests, freed with its last one). Arrivals are served
    in order and hold every extent they have got, so that neither KV nor a later load can overtake them for ever."""

    arena: kernels.Arena
    extents: Extents
    blocks: KvBlocks
    kv_floor: int
    """Extents that adapters never take: what one request of the greatest length needs."""
    populate_bytes: int = 0
    """How much of the arena `populate` may make real: what the machine can spare."""
    _populated: int = 0
    _arrivals: deque[Arrival] = field(default_factory=deque)
    _residents: dict[str, Resident] = field(default_factory=dict)

    def attach(self, image: AdapterImage, timeout: int) -> bool:
        """Begins an arrival, which `progress` brings in; True if the version is resident already.

        Raises AdapterUnavailable when it cannot fit beside the others."""
        version = image.version.hash
        if version in self._residents:
            return True
        if any(arrival.image.version.hash == version for arrival in self._arrivals):
            return False
        promised = sum(arrival.image.extents - arrival.copied for arrival in self._arrivals)
        room = self.extents.total - self.kv_floor - self.extents.owned_extents - promised
        if image.extents > room:
            mib = self.extents_mib
            raise AdapterUnavailable(
                f"adapter {image.version.short} needs {image.extents * mib:.1f} MiB and {max(room, 0) * mib:.1f} MiB are left "
                "for adapters: unload others or raise --memory"
            )
        self._arrivals.append(Arrival(image, timeout))
        return False

    def progress(self, now: int, budget: int | None) -> Iterator[Arrived]:
        """Copies up to `budget` bytes (None: all) of the first arrivals; yields those that settled."""
        while self._arrivals:
            arrival = self._arrivals[0]
            version = arrival.image.version.hash
            try:
                budget = self._bring(arrival, now, budget)
            except AdapterUnavailable as error:
                self._arrivals.popleft()
                if arrival.copied:
                    self.extents.release_extents(version)
                yield Arrived(version, error)
                continue
            if arrival.copied < arrival.image.extents:
                return
            self._arrivals.popleft()
            self._residents[version] = Resident(arrival.image, self._handle(arrival.image))
            yield Arrived(version)

    def resume(self, version: str) -> bool:
        """Opens a retired version again; whether it was one."""
        resident = self._residents.get(version)
        if resident is None or not resident.retired:
            return False
        resident.retired = False
        return True

    def retire(self, version: str) -> Freed | None:
        """Closes the version to new requests; frees it now (returned) or with its last request. Raises AdapterNotFound."""
        resident = self._residents.get(version)
        if resident is None or resident.retired:
            raise AdapterNotFound(f"no adapter {version[:12]} is resident")
        resident.retired = True
        return self._free_if_unused(version)

    def acquire(self, version: str) -> kernels.Adapter:
        """One more request uses the version. Raises AdapterNotFound, also for a retired one."""
        resident = self._residents.get(version)
        if resident is None or resident.retired:
            raise AdapterNotFound(f"adapter {version[:12]} is not loaded")
        resident.references += 1
        return resident.handle

    def release(self, version: str) -> Freed | None:
        """One request less. What it freed, when it was a retired version's last."""
        self._residents[version].references -= 1
        return self._free_if_unused(version)

    def populate(self) -> bool:
        """Makes a little more of the arena real, lowest addresses first; False when all that may be is.

        A page's first use costs many times its next: done while idle, no request pays for it."""
        count = min(POPULATE_BYTES, self.populate_bytes - self._populated)
        self.arena.populate(self._populated, count)
        self._populated += count
        return count > 0

    @property
    def arriving(self) -> bool:
        """Whether `progress` has work."""
        return bool(self._arrivals)

    @property
    def resident_bytes(self) -> int:
        """Arena bytes that adapters own."""
        return self.extents.owned_extents * self._extent_bytes

    @property
    def extents_mib(self) -> float:
        """MiB of one extent."""
        return self._extent_bytes / (1 << 20)

    def check(self) -> None:
        """Raises AssertionError unless exactly the resident and arriving adapters own extents."""
        owned = sum(resident.image.extents for resident in self._residents.values())
        owned += sum(arrival.copied for arrival in self._arrivals)
        assert owned == self.extents.owned_extents, f"{self.extents.owned_extents} extents owned, {owned} accounted for"

    @property
    def references(self) -> int:
        """Requests that hold an adapter."""
        return sum(resident.references for resident in self._residents.values())

    @property
    def _extent_bytes(self) -> int:
        return self.arena.bytes // self.extents.total

    def _free_if_unused(self, version: str) -> Freed | None:
        resident = self._residents[version]
        if not resident.retired or resident.references:
            return None
        del self._residents[version]
        return Freed(version, self.extents.release_extents(version) * self._extent_bytes)

    def _bring(self, arrival: Arrival, now: int, budget: int | None) -> int | None:
        """Copies what memory and budget allow; what is left of the budget. Raises AdapterUnavailable when it will not arrive."""
        if arrival.deadline is None:
            arrival.deadline = now + arrival.timeout
        if now > arrival.deadline:
            raise AdapterUnavailable("no memory came free for the adapter in time; try again later")
        try:
            while arrival.copied < arrival.image.extents and (budget is None or budget > 0) and self._copy_extent(arrival):
                budget = None if budget is None else budget - arrival.image.extent_bytes
        except (OSError, ValueError) as error:
            raise AdapterUnavailable(f"the adapter's packed copy cannot be read ({error}); load it again") from error
        return budget

    def _copy_extent(self, arrival: Arrival) -> bool:
        image = arrival.image
        if self.extents.free_extents == 0:
            self.blocks.vacate(1)
            if self.extents.free_extents == 0:
                return False
        source = np.memmap(image.path, np.uint8, "r", arrival.copied * image.extent_bytes, (image.extent_bytes,))
        (extent,) = self.extents.take_extents(image.version.hash, 1)
        start = extent * image.extent_bytes
        self.arena.array[start : start + image.extent_bytes] = source
        arrival.copied += 1
        return True

    def _handle(self, image: AdapterImage) -> kernels.Adapter:
        if image.extent_bytes != self._extent_bytes:
            raise AdapterConflict("the image was cut for another arena")
        starts = [extent * image.extent_bytes for extent in self.extents.owned_by(image.version.hash)]
        handle = kernels.Adapter(self.arena)
        for piece in image.pieces:
            a_offset = starts[piece.a_extent] + piece.a_offset
            handle.set(piece.site, piece.part, piece.rank, piece.scale, a_offset, starts[piece.b_extent] + piece.b_offset)
        return handle
