"""Fixtures that every suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The Hugging Face folder of the demo's base model."""
    folder = ROOT / ".models" / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").is_file():
        pytest.fail(f"{folder} is missing: run `make model` first")
    return folder
