"""A tiny real model with adapters of different ranks and targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from manylora.engine.checkpoint import open_checkpoint
from tests.engine.harness import write_llama, write_lora


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama folder."""
    return write_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters for `tiny`: all projections, two of them, an odd rank, a wide one."""
    shape, folder = open_checkpoint(tiny).shape, tmp_path_factory.mktemp("adapters")
    return {
        "all4": write_lora(folder / "all4", shape, 4, seed=1),
        "qv8": write_lora(folder / "qv8", shape, 8, ["q_proj", "v_proj"], seed=2),
        "mlp3": write_lora(folder / "mlp3", shape, 3, ["gate_proj", "up_proj", "down_proj"], seed=3, use_rslora=True),
        "mixed": write_lora(folder / "mixed", shape, 5, seed=4, rank_pattern={"o_proj": 17, "k_proj": 1}),
    }


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where adapter images go."""
    return tmp_path_factory.mktemp("images")
