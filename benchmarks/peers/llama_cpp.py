"""llama.cpp's server: adapters are chosen by number, and requests with different ones are never in one batch."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Running
from benchmarks.loads import Ask, over_http
from benchmarks.peers import environments
from manylora.loadgen.server_process import free_port, serving

WORKERS = Path(__file__).resolve().parent / "workers"
START_SECONDS = 300.0
FORMATS = {"bf16": "bf16", "int8": "q8_0"}
SLOT_TOKENS = (256, 768, 2304)
"""A slot's context is the least of these that holds the request."""


class LlamaCpp:
    """The server of the wheel xllamacpp. Its int8 is q8_0: weights in blocks of 32 with a scale each."""

    name = "llama.cpp"
    version = environments.XLLAMACPP
    repeats = 1

    def refusal(self, case: Case) -> str | None:
        return None

    def start(self, case: Case) -> tuple[str, str, int, int, bool]:
        """(model, quantisation, slots, tokens of a slot, prefix cache)."""
        needed = case.system + case.prompt + case.output
        tokens = next(size for size in SLOT_TOKENS if size >= needed)
        return case.model, case.quantization, case.concurrency, tokens, case.prefix_cache

    @contextlib.contextmanager
    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> Iterator[Running]:
        model, quantization, slots, tokens, prefix_cache = self.start(cases[0])
        python, _ = environments.llama_cpp()
        adapters = checkpoints.adapters(model, list(cases))
        numbers = {name: number for number, name in enumerate(adapters)}
        port = free_port()
        file = _converted_model(checkpoints, model, FORMATS[quantization])
        threads = len(os.sched_getaffinity(0))
        sizes = [str(port), str(slots), str(tokens), str(threads)]
        files = [str(path) for path in _converted_adapters(checkpoints, model, adapters)]
        command = [str(python), str(WORKERS / "llama_cpp_server.py"), str(file), *sizes, *files]

        def fields(ask: Ask) -> dict[str, object]:
            chosen = [] if ask.adapter is None else [{"id": numbers[ask.adapter], "scale": 1.0}]
            return {"lora": chosen, "cache_prompt": prefix_cache}

        url = f"http://127.0.0.1:{port}"
        with serving(command, url, log, START_SECONDS) as process:
            yield Running(over_http(url, fields), process.pid)


def _converted_model(checkpoints: Checkpoints, model: str, form: str) -> Path:
    """The GGUF file of a model, converted when first asked for."""
    file = checkpoints.folder / f"{model}-{form}.gguf"
    if not file.is_file():
        python, scripts = environments.llama_cpp()
        unfinished = file.with_suffix(".unfinished")
        file.parent.mkdir(parents=True, exist_ok=True)
        script = [str(python), str(scripts / "convert_hf_to_gguf.py"), str(checkpoints.base(model))]
        _quietly([*script, "--outtype", form, "--outfile", str(unfinished)])
        unfinished.rename(file)
    return file


def _converted_adapters(checkpoints: Checkpoints, model: str, adapters: dict[str, Path]) -> list[Path]:
    """The GGUF files of adapters, in their order, converted when first asked for."""
    files = {name: checkpoints.folder / f"{model}-adapters-gguf" / f"{name}.gguf" for name in adapters}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        python, scripts = environments.llama_cpp()
        files[missing[0]].parent.mkdir(parents=True, exist_ok=True)
        unfinished = {name: files[name].with_suffix(".unfinished") for name in missing}
        pairs = [str(path) for name in missing for path in (adapters[name], unfinished[name])]
        _quietly([str(python), str(WORKERS / "llama_cpp_convert.py"), str(scripts), str(checkpoints.base(model)), *pairs])
        for name, path in unfinished.items():
            path.rename(files[name])
    return list(files.values())


def _quietly(command: list[str]) -> None:
    """Runs a converter; what it says is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(f"{Path(command[1]).name} failed:\n{done.stderr[-2000:]}")
