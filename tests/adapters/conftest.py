"""Adapters saved by PEFT itself on tiny models, and the helper modules of the checkpoint tests."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
for _folder in ("adapters", "checkpoint"):
    sys.path.insert(0, str(_TESTS / _folder))
