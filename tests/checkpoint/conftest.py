"""Puts this folder's helper modules on the path, and finds the demo's base model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

_SMOLLM2 = Path(__file__).resolve().parents[2] / ".models" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The Hugging Face folder of the demo's base model."""
    if not (_SMOLLM2 / "config.json").is_file():
        pytest.fail(f"{_SMOLLM2} is missing: run `make model` first")
    return _SMOLLM2
