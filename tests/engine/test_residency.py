"""Adapters on their way into the arena and out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from manylora import kernels
from manylora.adapters import read_adapter
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.image import AdapterImage, arena_layout, write_image
from manylora.engine.residency import Arrived, Freed, Residency
from manylora.errors import AdapterUnavailable
from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import KvBlocks
from manylora.types.model import ModelShape
from tests.engine.harness import write_lora

SECOND = 10**9


@pytest.fixture(scope="module")
def shape(tiny: Path) -> ModelShape:
    return open_checkpoint(tiny).shape


@pytest.fixture
def packed(shape: ModelShape, tmp_path: Path) -> list[AdapterImage]:
    """Three adapters of one extent each."""
    extent_bytes = arena_layout(shape, 64 << 20).extent_bytes
    folders = [write_lora(tmp_path / f"a{seed}", shape, 4, seed=seed) for seed in range(3)]
    adapters = [read_adapter(folder, shape) for folder in folders]
    return [write_image(adapter, shape, extent_bytes, tmp_path / f"{adapter.version.hash}.image") for adapter in adapters]


def residency(shape: ModelShape, extents: int, kv_floor: int = 1) -> Residency:
    layout = arena_layout(shape, 64 << 20)
    owned = Extents(extents, layout.blocks_per_extent)
    return Residency(kernels.Arena(extents * layout.extent_bytes), owned, KvBlocks(owned), kv_floor)


def test_what_is_promised_to_one_arrival_is_not_promised_to_another(shape: ModelShape, packed: list[AdapterImage]) -> None:
    """Loads that come together cannot overcommit: the one that does not fit beside the others is refused at once."""
    memory = residency(shape, extents=3)
    memory.attach(packed[0], SECOND)
    memory.attach(packed[1], SECOND)
    with pytest.raises(AdapterUnavailable, match=r"needs 1\.0 MiB and 0\.0 MiB are left"):
        memory.attach(packed[2], SECOND)
    assert list(memory.progress(0, None)) == [Arrived(image.version.hash) for image in packed[:2]]
    memory.check()


def test_an_arrival_waits_for_memory_and_no_longer_than_its_time(shape: ModelShape, packed: list[AdapterImage]) -> None:
    """While running requests hold the memory it waits; when its time is over it fails, and what it held is free again. The time
    of the next one begins when it is its turn."""
    memory = residency(shape, extents=3)
    held = memory.blocks.acquire((), 3 * memory.extents.blocks_per_extent)
    assert held is not None
    memory.attach(packed[0], SECOND)
    memory.attach(packed[1], SECOND)
    assert list(memory.progress(0, None)) == []
    assert list(memory.progress(SECOND, None)) == []
    (failed,) = memory.progress(SECOND + 1, None)
    assert failed.version == packed[0].version.hash
    assert "no memory came free" in str(failed.error)
    memory.blocks.release(held)
    assert list(memory.progress(2 * SECOND, None)) == [Arrived(packed[1].version.hash)]
    memory.check()


def test_a_step_copies_no_more_than_its_budget(shape: ModelShape, tmp_path: Path) -> None:
    """Loading never stalls serving: an adapter of several extents arrives over several steps."""
    layout = arena_layout(shape, 64 << 20)
    adapter = read_adapter(write_lora(tmp_path / "wide", shape, 90), shape)
    smaller = layout.extent_bytes // 4
    image = write_image(adapter, shape, layout.extent_bytes, tmp_path / "wide.image")
    assert image.extents == 1
    small = write_image(adapter, shape, smaller, tmp_path / "small.image")
    assert small.extents > 1
    extents = Extents(8, layout.blocks_per_extent)
    memory = Residency(kernels.Arena(8 * smaller), extents, KvBlocks(extents), 1)
    memory.attach(small, SECOND)
    steps = 0
    while not list(memory.progress(0, 1)):
        steps += 1
        assert memory.extents.owned_extents == steps
    assert steps == small.extents - 1


def test_a_retired_version_can_be_opened_again(shape: ModelShape, packed: list[AdapterImage]) -> None:
    """A reload while the last request of the version still runs keeps it, and the retirement does not free it later."""
    memory = residency(shape, extents=3)
    version = packed[0].version.hash
    memory.attach(packed[0], SECOND)
    list(memory.progress(0, None))
    memory.acquire(version)
    assert memory.retire(version) is None
    assert memory.resume(version)
    assert not memory.resume(version)
    assert memory.release(version) is None
    assert isinstance(memory.acquire(version), kernels.Adapter)
    assert memory.release(version) is None
    assert memory.retire(version) == Freed(version, packed[0].extent_bytes)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_image_that_cannot_be_read_fails_its_own_load_only(shape: ModelShape, packed: list[AdapterImage], damage: str) -> None:
    """A file that vanished must not end the engine: the arrival fails, the next one comes, nothing is lost."""
    memory = residency(shape, extents=4)
    if damage == "missing":
        packed[0].path.unlink()
    else:
        packed[0].path.write_bytes(b"short")
    memory.attach(packed[0], SECOND)
    memory.attach(packed[1], SECOND)
    failed, arrived = memory.progress(0, None)
    assert "cannot be read" in str(failed.error)
    assert arrived == Arrived(packed[1].version.hash)
    memory.check()
