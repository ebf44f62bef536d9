"""PEFT's worker process."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import BASE
from benchmarks.checkpoints import Checkpoints
from benchmarks.loads import MeasurementFailed, asks, measure
from benchmarks.peers import peft


def test_a_worker_that_ends_is_a_failed_measurement(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the case it dies in and in all after it, whose requests nobody reads; the campaign goes on with the next engine."""
    (tmp_path / "worker.py").write_text("print('ready', flush=True)\ninput()\n")
    monkeypatch.setattr(peft, "WORKER", tmp_path / "worker.py")
    with peft.Peft().running([BASE], Checkpoints(tmp_path, smollm2), tmp_path / "log") as running:
        for seed in range(3):
            with pytest.raises(MeasurementFailed, match="the worker ended"):
                measure(running.answer, asks(BASE, 49152, seed, 32), 32)
