"""vLLM's CPU build: OpenAI's API, an adapter is a `model`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Running
from benchmarks.loads import over_http
from benchmarks.ours import fields
from benchmarks.peers import environments
from manylora.loadgen.server_process import free_port, serving

START_SECONDS = 600.0
MAX_LENGTH, MAX_REQUESTS, KV_GB = 2304, 64, 2


class Vllm:
    """Started for each case at its best: without LoRA for the base, else with the slots and the rank that the case needs."""

    name = "vLLM"
    version = environments.VLLM
    repeats = 1

    def refusal(self, case: Case) -> str | None:
        if case.quantization != "bf16":
            return "int8 needs a checkpoint quantised beforehand"
        return None

    def start(self, case: Case) -> tuple[str, bool, int, int]:
        """(model, prefix cache, LoRA slots, largest rank); no slots: LoRA is off."""
        rank = max(case.ranks) if case.adapters else 0
        return case.model, case.prefix_cache, case.adapters, rank

    @contextlib.contextmanager
    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> Iterator[Running]:
        model, prefix_cache, slots, rank = self.start(cases[0])
        port = free_port()
        command = [str(environments.vllm()), "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoints.base(model))]
        command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--max-model-len", str(MAX_LENGTH), "--max-num-seqs", str(MAX_REQUESTS)]
        command += [f"--{'' if prefix_cache else 'no-'}enable-prefix-caching"]
        if slots:
            command += ["--enable-lora", "--max-loras", str(slots), "--max-cpu-loras", str(slots), "--max-lora-rank", str(rank)]
            adapters = checkpoints.adapters(model, list(cases))
            command += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
        url = f"http://127.0.0.1:{port}"
        with serving(command, url, log, START_SECONDS, _environment()) as process:
            yield Running(over_http(url, fields), process.pid)


def _environment() -> dict[str, str]:
    """Every CPU computes: by itself vLLM keeps one back."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GB),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": cpus,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
