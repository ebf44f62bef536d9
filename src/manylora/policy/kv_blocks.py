"""KV blocks: who holds which, and which hold content worth keeping for a later request with the same prefix."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from manylora.policy.extents import Extents

BLOCK_TOKENS = 16
"""Tokens of one KV block, over all layers."""


def blocks_for(tokens: int) -> int:
    """Blocks that `tokens` tokens take."""
    return -(-tokens // BLOCK_TOKENS)


class KvBlocks:
    """Reference-counted blocks and the prefix cache.

    A block is *sealed* once its 16 tokens are computed and its content key is known; only sealed blocks are found by later
    requests. A key names the adapter version and every token up to the block's end, so equal keys mean equal bits.
    An unreferenced sealed block stays until its memory is wanted; the least recently used goes first."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self._references: dict[int, int] = {}
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # unreferenced sealed blocks, least recently used first

    @property
    def available(self) -> int:
        """Blocks that `acquire` can hand out, dropping idle cached ones if it must."""
        return self._extents.free_blocks + len(self._idle)

    @property
    def total(self) -> int:
        """Blocks in the extents that adapters do not own."""
        return (self._extents.total - self._extents.owned_extents) * self._extents.blocks_per_extent

    @property
    def referenced(self) -> int:
        """Blocks that some request holds."""
        return len(self._references)

    @property
    def idle(self) -> int:
        """Cached blocks that no request holds."""
        return len(self._idle)

    def match(self, keys: Sequence[bytes]) -> int:
        """How many leading keys are cached."""
        for count, key in enumerate(keys):
            if key not in self._block_of:
                return count
        return len(keys)

    def acquire(self, keys: Sequence[bytes], count: int) -> list[int] | None:
        """`count` referenced blocks, the first `len(keys)` of them the cached ones of those keys (all must match).

        None, and nothing changed, when they are not to be had."""
        shared = [self._block_of[key] for key in keys]
        idle_shared = sum(block in self._idle for block in shared)
        fresh = count - len(shared)
        if fresh > self.available - idle_shared:
            return None
        for block in shared:
            self._idle.pop(block, None)
            self._references[block] = self._references.get(block, 0) + 1
        while self._extents.free_blocks < fresh:
            self._forget(next(iter(self._idle)))
        taken = self._extents.take_blocks(fresh)
        self._references.update((block, 1) for block in taken)
        return shared + taken

    def seal(self, block: int, key: bytes) -> None:
        """The block's content is complete. When another block already holds it, that one stays the cached one."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Drops one reference each. The last of a sequence's blocks becomes the first to be dropped: prefixes outlive tails."""
        freed = []
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            del self._references[block]
            if block in self._key_of:
                self._idle[block] = None
            else:
                freed.append(block)
        self._extents.release_blocks(freed)

    def vacate(self, extents: int) -> None:
        """Drops idle blocks until that many extents are free, or no extent can be emptied any more."""
        for extent in self._extents.kv_extents():
            if self._extents.free_extents >= extents:
                return
            first = extent * self._extents.blocks_per_extent
            members = range(first, first + self._extents.blocks_per_extent)
            if not any(block in self._references for block in members):
                for block in members:
                    if block in self._idle:
                        self._forget(block)

    def check(self) -> None:
        """Raises AssertionError unless every block is exactly one of free, referenced, idle."""
        self._extents.check()
        kv = len(self._references) + len(self._idle)
        free = self._extents.free_blocks
        assert kv + free == self.total, f"KV blocks lost: {kv} held + {free} free != {self.total}"
        assert not self._references.keys() & self._idle.keys(), "a block is both referenced and idle"
        assert all(count > 0 for count in self._references.values()), "a reference count is not positive"

    def _forget(self, block: int) -> None:
        del self._idle[block]
        del self._block_of[self._key_of.pop(block)]
        self._extents.release_blocks([block])
