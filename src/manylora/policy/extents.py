"""The memory law: one arena of equal extents, each a whole number of KV blocks, owned by KV or by one adapter."""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Extents:
    """Who owns which extent, and which blocks of the KV extents are taken.

    Block b lies in extent b // blocks_per_extent. KV fills its fullest extents first, so that sparse ones run empty and go back
    to the pool. Every operation is all or nothing and costs O(what it changes)."""

    def __init__(self, total: int, blocks_per_extent: int) -> None:
        if total < 1 or blocks_per_extent < 1:
            raise ValueError("an arena needs at least one extent of at least one block")
        self.total = total
        self.blocks_per_extent = blocks_per_extent
        self._free = list(range(total))  # a heap: low extents first
        self._owners: dict[str, tuple[int, ...]] = {}
        self._spare: dict[int, list[int]] = {}  # KV extent -> heap of its free blocks
        self._by_spare: list[dict[int, None]] = [{} for _ in range(blocks_per_extent + 1)]  # free blocks -> KV extents
        self._spare_blocks = 0

    @property
    def free_extents(self) -> int:
        """Extents that nobody owns."""
        return len(self._free)

    @property
    def owned_extents(self) -> int:
        """Extents that adapters own."""
        return sum(len(extents) for extents in self._owners.values())

    @property
    def free_blocks(self) -> int:
        """Blocks that `take_blocks` can hand out."""
        return self._spare_blocks + len(self._free) * self.blocks_per_extent

    def take_blocks(self, count: int) -> list[int]:
        """`count` blocks for KV. Raises MemoryError, and changes nothing, when there are fewer."""
        if count > self.free_blocks:
            raise MemoryError(f"{count} KV blocks wanted, {self.free_blocks} free")
        taken: list[int] = []
        while len(taken) < count:
            extent = self._fullest()
            spare = self._spare[extent]
            del self._by_spare[len(spare)][extent]
            while spare and len(taken) < count:
                taken.append(heappop(spare))
                self._spare_blocks -= 1
            self._by_spare[len(spare)][extent] = None
        return taken

    def release_blocks(self, blocks: list[int]) -> None:
        """Gives KV blocks back; an extent without a taken block returns to the pool."""
        for block in blocks:
            extent = block // self.blocks_per_extent
            spare = self._spare[extent]
            if block in spare:
                raise ValueError(f"block {block} is released twice")
            del self._by_spare[len(spare)][extent]
            heappush(spare, block)
            self._spare_blocks += 1
            if len(spare) == self.blocks_per_extent:
                del self._spare[extent]
                self._spare_blocks -= self.blocks_per_extent
                heappush(self._free, extent)
            else:
                self._by_spare[len(spare)][extent] = None

    def take_extents(self, owner: str, count: int) -> tuple[int, ...]:
        """`count` more whole extents for `owner`. Raises MemoryError, and changes nothing, when there are fewer."""
        if count > len(self._free):
            raise MemoryError(f"{count} extents wanted, {len(self._free)} free")
        extents = tuple(heappop(self._free) for _ in range(count))
        self._owners[owner] = self._owners.get(owner, ()) + extents
        return extents

    def owned_by(self, owner: str) -> tuple[int, ...]:
        """The owner's extents, in the order in which it took them."""
        return self._owners.get(owner, ())

    def release_extents(self, owner: str) -> int:
        """Gives all of `owner`'s extents back; how many they were."""
        extents = self._owners.pop(owner)
        for extent in extents:
            heappush(self._free, extent)
        return len(extents)

    def kv_extents(self) -> list[int]:
        """Extents that hold KV blocks, those with the fewest taken blocks first."""
        return [extent for bucket in reversed(self._by_spare) for extent in bucket]

    def check(self) -> None:
        """Raises AssertionError unless every extent has exactly one owner and the counts add up."""
        owned = [extent for extents in self._owners.values() for extent in extents]
        everything = sorted([*self._free, *self._spare, *owned])
        assert everything == list(range(self.total)), f"extents lost or doubled: {everything}"
        assert self._spare_blocks == sum(map(len, self._spare.values())), "spare blocks miscounted"

    def _fullest(self) -> int:
        for spare in range(1, self.blocks_per_extent):
            if self._by_spare[spare]:
                return next(iter(self._by_spare[spare]))
        extent = heappop(self._free)
        first = extent * self.blocks_per_extent
        self._spare[extent] = list(range(first, first + self.blocks_per_extent))
        heapify(self._spare[extent])
        self._spare_blocks += self.blocks_per_extent
        self._by_spare[self.blocks_per_extent][extent] = None
        return extent
