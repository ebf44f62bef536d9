"""The memory law."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manylora.policy.extents import Extents

operations = st.lists(st.tuples(st.sampled_from(["take", "release", "own", "disown"]), st.integers(1, 9)), max_size=60)


@given(total=st.integers(1, 8), per_extent=st.integers(1, 5), script=operations)
def test_every_extent_has_one_owner_and_nothing_is_lost(total: int, per_extent: int, script: list[tuple[str, int]]) -> None:
    """Conservation: whatever is taken and given back, each block and each extent belongs to exactly one holder."""
    extents = Extents(total, per_extent)
    held: list[int] = []
    owners: dict[str, int] = {}
    for number, (verb, count) in enumerate(script):
        if verb == "take":
            if count > extents.free_blocks:
                with pytest.raises(MemoryError):
                    extents.take_blocks(count)
            else:
                taken = extents.take_blocks(count)
                assert len(set(taken)) == count
                assert not set(taken) & set(held)
                held += taken
        elif verb == "release" and held:
            extents.release_blocks([held.pop(count % len(held))])
        elif verb == "own":
            if count > extents.free_extents:
                with pytest.raises(MemoryError):
                    extents.take_extents(f"a{number}", count)
            else:
                owners[f"a{number}"] = len(extents.take_extents(f"a{number}", count))
        elif verb == "disown" and owners:
            owner, size = owners.popitem()
            assert extents.release_extents(owner) == size
        extents.check()
        assert extents.free_blocks == (total - sum(owners.values())) * per_extent - len(held)
    extents.release_blocks(held)
    for owner in list(owners):
        extents.release_extents(owner)
    extents.check()
    assert extents.free_extents == total


def test_kv_fills_the_fullest_extent_first() -> None:
    """Sparse extents must run empty, so that adapters can have them."""
    extents = Extents(3, 4)
    first = extents.take_blocks(4)
    second = extents.take_blocks(3)
    extents.release_blocks(first[1:])  # extent 0 holds one block, extent 1 three
    assert extents.take_blocks(1)[0] // 4 == second[0] // 4


def test_a_block_cannot_be_released_twice() -> None:
    """A double release is a bug of the caller and must not corrupt the books."""
    extents = Extents(1, 4)
    extents.take_blocks(2)
    extents.release_blocks([0])
    with pytest.raises(ValueError, match="twice"):
        extents.release_blocks([0])
