"""What the step log leaves on the disk when something ends it."""

from __future__ import annotations

import resource
import socket
import threading
from pathlib import Path

import pytest

from manylora.engine.channel import Channel
from manylora.engine.config import EngineConfig
from manylora.engine.loop import run_engine
from manylora.engine.messages import EngineStart, FromEngine, Ready, Submit, ToEngine
from manylora.engine.step_log import StepFigures, StepLog
from manylora.kernels import Runtime
from manylora.metrics.step_log import read_step_log
from manylora.types.request import Request, SamplingParams
from manylora.types.step import StepPlan


def test_a_file_that_fills_up_ends_with_a_whole_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system takes as much as fits, in the middle of a record. The fault is told, and the log stays readable."""
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    log.begin(Runtime(1, "scalar"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        for _ in range(10):
            log.write(StepFigures(StepPlan(decodes=("a",)), adapters=0, context_tokens=1))
        log.flush()
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    records = list(read_step_log(path))
    assert 0 < len(records) < 10
    assert path.read_bytes().endswith(b"}\n")
    assert capsys.readouterr().err == f"step log {path} ends here: File too large\n"


def test_a_busy_engine_whose_server_is_gone_writes_its_last_steps(tiny: Path, tmp_path: Path) -> None:
    """Steps just before a crash are those that one wants to see: they do not wait for the engine to be idle."""
    path = tmp_path / "steps.jsonl"
    config = EngineConfig(model=tiny, threads=1, memory_bytes=32 << 20, max_model_len=1000, step_log=path)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        engine = threading.Thread(target=run_engine, args=(Channel(theirs, ToEngine),))
        engine.start()
        server = Channel(ours, FromEngine)
        server.send(EngineStart(config, "scalar"))
        while not any(isinstance(message, Ready) for message in server.receive(wait=True)):
            pass
        server.send(Submit(Request("r", [5, 6, 7, 8], SamplingParams(max_tokens=900, temperature=0.0))))
        ours.shutdown(socket.SHUT_WR)
        engine.join(60)
        assert not engine.is_alive()
    assert list(read_step_log(path))
