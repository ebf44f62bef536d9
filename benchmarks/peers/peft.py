"""transformers and PEFT: no server, but batches of fixed members, adapters mixed. As many at once as a load has in flight."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Running
from benchmarks.loads import Answering, Ask
from manylora.loadgen.client import LoadRequest, LoadResult
from manylora.loadgen.server_process import ServerDidNotStart

WORKER = Path(__file__).resolve().parent / "workers" / "peft_worker.py"


class Peft:
    """A worker process of this interpreter, which has the test oracles."""

    name = "PEFT"
    manner = (
        "no server: `generate` on one static batch of all requests in flight, adapters mixed; transformers alone for the base"
    )
    version = importlib.metadata.version("peft")
    repeats = 1

    def refusal(self, case: Case) -> str | None:
        if case.quantization != "bf16":
            return "no int8 on CPUs"
        if case.system:
            return "no cache of prefixes"
        return None

    def start(self, case: Case) -> tuple[str, tuple[str, ...]]:
        """(model, adapters): those of the case only, since each costs time even when it is not used."""
        return case.model, tuple(case.adapter_names)

    @contextlib.contextmanager
    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> Iterator[Running]:
        model = cases[0].model
        adapters = [f"{name}={folder}" for name, folder in checkpoints.adapters(model, list(cases)).items()]
        threads = str(len(os.sched_getaffinity(0)))
        command = [sys.executable, str(WORKER), str(checkpoints.base(model)), threads, *adapters]
        variables = os.environ | {"HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        with (
            log.open("wb") as errors,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=variables) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                if not process.stdout.readline():
                    raise ServerDidNotStart(f"the worker ended:\n{log.read_text(errors='replace')[-2000:]}")
                yield Running(_answering(process.stdin, process.stdout), process.pid)
            finally:
                with contextlib.suppress(OSError):  # a worker that ended has not read everything
                    process.stdin.close()
                process.kill()


def _answering(to_worker: IO[str], from_worker: IO[str]) -> Answering:
    def answer(requests: Sequence[Ask], concurrency: int) -> list[LoadResult]:
        results: list[LoadResult] = []
        for first in range(0, len(requests), concurrency):
            results += _batch(to_worker, from_worker, requests[first : first + concurrency])
        return results

    return answer


def _batch(to_worker: IO[str], from_worker: IO[str], requests: Sequence[Ask]) -> list[LoadResult]:
    """One batch: everything is sent at once, and every answer grows by a token with each step."""
    sent = time.perf_counter()
    prompts, names = [ask.prompt for ask in requests], [ask.adapter for ask in requests]
    line = ""
    with contextlib.suppress(OSError):
        to_worker.write(json.dumps({"prompts": prompts, "adapters": names, "output": requests[0].output}) + "\n")
        to_worker.flush()
        line = from_worker.readline()
    ended = time.perf_counter()
    if not line:
        return [LoadResult(LoadRequest({}), sent, ended=ended, error="the worker ended") for _ in requests]
    told = json.loads(line)
    times = [sent + seconds for seconds in told["seconds"]]
    return [
        LoadResult(LoadRequest({}), sent, times, finish_reason="length", output_tokens=tokens, ended=ended)
        for tokens in told["tokens"]
    ]
