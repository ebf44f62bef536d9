"""Panel widths, packed bytes, the choice of the instruction set, and the stubs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manylora.kernels
from manylora.errors import ConfigError
from manylora.kernels import (
    Arena,
    Linear,
    Matrix,
    Runtime,
    capabilities,
    choose_capability,
    lora_a_bytes,
    lora_b_bytes,
    pack_lora_a,
    pack_lora_b,
    panel_width,
)


def test_panel_width_is_a_constant_of_the_shape() -> None:
    """48 where every part divides by it, else 64, else 32: packed adapters depend on it, so it depends on nothing else."""
    assert panel_width([576, 192, 192]) == 48
    assert panel_width([49152]) == 48
    assert panel_width([2048, 512, 512]) == 64
    assert panel_width([128]) == 64
    assert panel_width([48, 64]) == 32
    assert panel_width([70]) == 32


@settings(max_examples=200, deadline=None)
@given(rank=st.integers(1, 65), depth=st.integers(1, 130), columns=st.integers(1, 200), width=st.sampled_from([32, 48, 64]))
def test_packed_factors_follow_the_documented_layout(rank: int, depth: int, columns: int, width: int) -> None:
    """The layout is a contract between the loader that packs and the kernels that read: every element, all padding zero."""
    generator = np.random.default_rng(rank * 1000 + depth)
    a = generator.integers(1, 2**16, (rank, depth), dtype=np.uint16)
    b = generator.integers(1, 2**16, (columns, rank), dtype=np.uint16)
    packed_a = np.full(lora_a_bytes(rank, depth), 0xFF, np.uint8)
    packed_b = np.full(lora_b_bytes(rank, columns, width), 0xFF, np.uint8)
    pack_lora_a(a, packed_a)
    pack_lora_b(b, width, packed_b)
    pitch = -(-depth // 32) * 32
    expected_a = np.zeros((rank, pitch), np.uint16)
    expected_a[:, :depth] = a
    np.testing.assert_array_equal(packed_a.view(np.uint16).reshape(rank, pitch), expected_a)
    panels, pairs = -(-columns // width), -(-rank // 2)
    expected_b = np.zeros((panels * width, pairs * 2), np.uint16)
    expected_b[:columns, :rank] = b
    laid_out = expected_b.reshape(panels, width, pairs, 2).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(packed_b.view(np.uint16).reshape(laid_out.shape), laid_out)


def test_true_ranks_take_true_bytes() -> None:
    """An adapter costs its own rank: rank 8 of a 576 x 576 layer is two times 9216 bytes, not a slot of the largest rank."""
    assert lora_a_bytes(8, 576) == lora_b_bytes(8, 576, 48) == 8 * 576 * 2


def test_packing_refuses_what_does_not_fit() -> None:
    """A target of another size, a width that is no panel width, an empty factor: ValueError, nothing written."""
    out = np.zeros(lora_a_bytes(4, 64), np.uint8)
    with pytest.raises(ValueError, match="out has 511 bytes, not 512"):
        pack_lora_a(np.ones((4, 64), np.uint16), out[:-1])
    with pytest.raises(ValueError, match="panel width must be 32, 48 or 64"):
        pack_lora_b(np.ones((64, 4), np.uint16), 40, out)
    with pytest.raises(ValueError, match="at least 1"):
        lora_a_bytes(0, 64)
    assert not out.any()


def test_a_linear_tells_its_shape_and_bytes() -> None:
    """The memory budget reads bytes from the weight itself, padding of part-filled panels included."""
    run = Runtime(1, "scalar")
    weight = Linear(run, [np.zeros((70, 9), np.uint16), np.zeros((3, 9), np.uint16)], [None, None])
    assert (weight.columns, weight.depth, weight.width, weight.part_columns) == (73, 9, 32, [70, 3])
    assert weight.bytes == 4 * 32 * 10 * 2


def test_views_outlive_their_owner() -> None:
    """An array view keeps its memory: dropping the handle first must not leave it dangling."""
    view, memory = Matrix(3, 5, "float32").array, Arena(100).array
    view[:], memory[:] = 7, 9
    Matrix(3, 5, "float32").array[:] = 1
    assert view.sum() == 105
    assert memory.sum() == 900
    assert view.strides[0] % 64 == 0


def test_a_runtime_refuses_what_is_not_there() -> None:
    """A runtime never falls back to other kernels or another thread count than asked."""
    for threads in (0, -1, 1025):
        with pytest.raises(ValueError, match="threads must be 1 to 1024"):
            Runtime(threads, "scalar")
    with pytest.raises(ValueError, match=r"capability 'neon' is not among .*scalar"):
        Runtime(1, "neon")
    with pytest.raises(ValueError, match="neither"):
        Matrix(1, 1, "float16")
    with pytest.raises(ValueError, match="at least one row"):
        Matrix(0, 1, "float32")


def test_the_instruction_set_can_be_chosen() -> None:
    """MANYLORA_ISA wins, otherwise the fastest; a missing one is an error that names what there is, not a silent fall-back."""
    assert capabilities()[0] == "scalar"
    assert choose_capability({}) == choose_capability({"MANYLORA_ISA": ""}) == capabilities()[-1]
    for name in capabilities():
        assert choose_capability({"MANYLORA_ISA": name}) == name
        assert Runtime(1, name).capability == name
    with pytest.raises(ConfigError, match=r"MANYLORA_ISA=neon .*scalar.*unset it"):
        choose_capability({"MANYLORA_ISA": "neon"})


def test_stubs_are_those_of_the_built_module(tmp_path: Path) -> None:
    """The committed stubs are generated: `python -m nanobind.stubgen -m manylora.kernels._native -O src/manylora/kernels`."""
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "manylora.kernels._native", "-O", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    committed = Path(manylora.kernels.__file__).with_name("_native.pyi").read_text()
    assert (tmp_path / "_native.pyi").read_text() == committed
