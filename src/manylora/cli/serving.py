"""What `manylora serve` does once its options are read: a progress bar while loading, then a line with the URL and a line with
what the machine gives to it."""

from __future__ import annotations

from pathlib import Path

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from manylora.adapters import read_adapter
from manylora.cli.byte_size import show_bytes
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.client import NativeEngine
from manylora.engine.config import EngineConfig
from manylora.kernels import release_freed_memory
from manylora.server.adapter_template import read_adapter_template
from manylora.server.base_model import BaseModel
from manylora.server.config import ServerConfig
from manylora.server.logs import configure_logs
from manylora.server.process import check_adapters, listen, run
from manylora.server.service import Service
from manylora.types.engine import EngineInfo

log = structlog.get_logger("manylora.cli")


class LoadingBar:
    """One bar per stage of loading, on stderr, gone when the server is ready; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._stages: dict[str, TaskID] = {}

    def start(self) -> None:
        """Begins to draw."""
        self._progress.start()

    def update(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are complete."""
        task = self._stages.get(stage)
        if task is None:
            task = self._stages[stage] = self._progress.add_task(f"loading {stage}", total=total)
        self._progress.update(task, completed=done, total=total)

    def stop(self) -> None:
        """Ends the drawing."""
        self._progress.stop()


async def run_server(engine_config: EngineConfig, config: ServerConfig, adapters: list[tuple[str, Path]]) -> None:
    """Serves until a signal. Raises ManyloraError if the start fails."""
    configure_logs(config.log_level, json=config.log_json)
    with listen(config) as listener:
        base = _base_model(engine_config)
        release_freed_memory()  # reading a tokenizer takes several times what it keeps
        bar = LoadingBar()
        service = Service.create(config, NativeEngine(engine_config, bar.update), base)
        check_adapters(adapters, service.registry.base_names)
        host, port = listener.getsockname()[:2]

        def ready() -> None:
            bar.stop()
            typer.echo(f"manylora serves {_served(service, engine_config, len(adapters))} on http://{_in_url(host)}:{port}")
            typer.echo(capacity_line(service.loaded(), engine_config))
            cut = context_cut(service.loaded(), engine_config)
            if cut is not None:
                log.warning(cut)

        def stopping(requests: int) -> None:
            bar.stop()
            typer.echo(stopping_line(requests, config.shutdown_seconds), err=True)

        bar.start()
        try:
            await run(service, adapters, listener, on_progress=bar.update, on_ready=ready, on_stopping=stopping)
        finally:
            bar.stop()


def _served(service: Service, config: EngineConfig, adapters: int) -> str:
    names = ", ".join(service.registry.base_names)
    return f"{names} with {adapters} adapters" if config.merge is None else f"{names} ({config.merge.name} merged)"


def stopping_line(requests: int, seconds: float) -> str:
    """What happens after a signal with so many requests under way."""
    counted = f"{requests} request{'s' if requests > 1 else ''}"
    return f"stopping: finishing {counted}, for {seconds:g} s at most" if requests else "stopping"


def capacity_line(info: EngineInfo, config: EngineConfig) -> str:
    """What the engine found and took: instruction set, kind of weights, threads, memory, and what fits."""
    weights = "bfloat16" if config.quantization == "none" else config.quantization
    return (
        f"kernels {info.capability} on {weights} weights, {info.threads} threads; memory {show_bytes(config.memory_bytes)} for "
        f"{info.kv_tokens} tokens of KV less the adapters; max_model_len {info.max_model_len} of the model's "
        f"{info.shape.max_position}"
    )


def context_cut(info: EngineInfo, config: EngineConfig) -> str | None:
    """The warning of a server whose memory, not its operator or its model, bounds the context."""
    if config.max_model_len is not None or not info.max_model_len == info.kv_tokens < info.shape.max_position:
        return None
    return (
        f"--memory {show_bytes(config.memory_bytes)} holds {info.kv_tokens} tokens, so max_model_len is {info.max_model_len}, "
        f"below the model's {info.shape.max_position}: raise --memory, or say --max-model-len to accept it"
    )


def _base_model(config: EngineConfig) -> BaseModel:
    """The base model's text side; a merged adapter brings its version and, if it has one, its chat template."""
    checkpoint = open_checkpoint(config.model)
    merged, template = None, None
    if config.merge is not None:
        merged = read_adapter(config.merge, checkpoint.shape, base_name=config.model.stem).version
        template = read_adapter_template(config.merge)
    return BaseModel.create(
        config.model,
        checkpoint.tokenizer(),
        eos_token_ids=checkpoint.eos_token_ids,
        vocab=checkpoint.shape.vocab,
        special_tokens=checkpoint.special_tokens,
        chat_template=template or checkpoint.chat_template,
        merged=merged,
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
