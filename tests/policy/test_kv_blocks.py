"""The prefix cache over reference-counted blocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import KvBlocks, blocks_for


def keys_of(text: str) -> list[bytes]:
    """One key per letter, each naming its whole prefix, as the engine's keys do."""
    return [text[: end + 1].encode() for end in range(len(text))]


def hold(blocks: KvBlocks, text: str) -> list[int]:
    """Acquires and seals blocks for every letter, reusing what is cached."""
    keys = keys_of(text)
    matched = blocks.match(keys)
    held = blocks.acquire(keys[:matched], len(keys))
    assert held is not None
    for block, key in zip(held, keys, strict=True):
        blocks.seal(block, key)
    return held


def test_a_prefix_is_shared_and_a_tail_is_not() -> None:
    """Equal leading keys give the same blocks; the first difference ends the sharing."""
    blocks = KvBlocks(Extents(4, 4))
    first, second = hold(blocks, "abcd"), hold(blocks, "abxy")
    assert first[:2] == second[:2]
    assert not set(first[2:]) & set(second[2:])


def test_released_blocks_stay_until_their_memory_is_wanted_oldest_tail_first() -> None:
    """Reuse costs nothing while memory is free; then the least recently used goes, tails before the prefixes they hang on."""
    blocks = KvBlocks(Extents(1, 6))
    old, new = hold(blocks, "abc"), hold(blocks, "xyz")
    blocks.release(old)
    blocks.release(new)
    assert blocks.match(keys_of("abc")) == blocks.match(keys_of("xyz")) == 3
    assert blocks.acquire((), 2) is not None
    assert (blocks.match(keys_of("abc")), blocks.match(keys_of("xyz"))) == (1, 3)


def test_acquire_does_not_count_the_blocks_it_shares_as_room() -> None:
    """An idle block that the request itself reuses cannot also be dropped to make room for it."""
    blocks = KvBlocks(Extents(1, 4))
    blocks.release(hold(blocks, "abcd"))
    assert blocks.acquire(keys_of("ab"), 5) is None
    blocks.check()
    assert blocks.match(keys_of("abcd")) == 4


def test_vacate_gives_whole_extents_and_spares_referenced_blocks() -> None:
    """An adapter gets extents by dropping idle blocks only."""
    blocks = KvBlocks(extents := Extents(3, 2))
    kept = hold(blocks, "ab")
    blocks.release(hold(blocks, "wxyz"))
    blocks.vacate(3)
    assert extents.free_extents == 2
    assert blocks.referenced == len(kept)
    blocks.check()


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=5), st.booleans()), max_size=40))
def test_conservation(script: list[tuple[str, bool]]) -> None:
    """Every block is exactly one of free, referenced, idle, after any sequence of requests."""
    blocks = KvBlocks(Extents(3, 3))
    held: list[list[int]] = []
    for text, release in script:
        keys = keys_of(text)
        matched = blocks.match(keys)
        taken = blocks.acquire(keys[:matched], len(keys))
        if taken is not None:
            for block, key in zip(taken, keys, strict=True):
                blocks.seal(block, key)
            held.append(taken)
        if held and (release or taken is None):
            blocks.release(held.pop(0))
        blocks.check()
    for each in held:
        blocks.release(each)
    blocks.check()
    assert blocks.available == blocks.total
    assert blocks.referenced == 0


def test_blocks_for_rounds_up() -> None:
    """A token past a border takes another block."""
    assert [blocks_for(tokens) for tokens in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]
