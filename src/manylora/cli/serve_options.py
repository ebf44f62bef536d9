"""The options of `manylora serve`: how each is read and what --help says of it. Their defaults are the config classes'."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer


def default_of(config: type, name: str) -> Any:
    """The default that a config class states; written there and nowhere else."""
    return next(field.default for field in dataclasses.fields(config) if field.name == name)


Model = Annotated[Path, typer.Argument(help="The base model: a Hugging Face folder or a .gguf file.", show_default=False)]
Adapters = Annotated[list[str], typer.Option(metavar="NAME=PATH", help="A PEFT adapter to serve; repeat for more.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
ServedNames = Annotated[
    list[str],
    typer.Option(metavar="NAME", help="Name of the base model; repeat for more.  [default: its folder's name]"),
]
MaxModelLen = Annotated[
    int | None, typer.Option(min=1, help="Prompt plus new tokens of one request.  [default: the model's limit]")
]
MaxNumSeqs = Annotated[int, typer.Option(min=1, help="Requests running at once.")]
MaxNumBatchedTokens = Annotated[int, typer.Option(min=1, help="Tokens of one engine step.")]
MaxWaiting = Annotated[int, typer.Option(min=1, help="Requests queued before more are refused with 429.")]
Memory = Annotated[str, typer.Option(metavar="SIZE", help="For KV cache and adapters together: 4GiB, 512MiB.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Kernel threads.  [default: the CPUs of this process]")]
Quantization = Annotated[
    str,
    typer.Option(metavar="none|int8", help="int8: faster, half the memory for weights; logits move a little."),
]
PrefixCache = Annotated[bool, typer.Option(help="Reuse the KV of equal prompt beginnings.")]
Merge = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Merge this --adapter into the weights and serve only it, at base speed."),
]
AllowRuntimeAdapters = Annotated[
    bool,
    typer.Option("--allow-runtime-adapters", help="Enable POST /v1/load_lora_adapter and /v1/unload_lora_adapter."),
]
AdapterRoots = Annotated[
    list[Path],
    typer.Option(metavar="FOLDER", help="Runtime adapters are loaded only from below; repeat for more."),
]
MaxBody = Annotated[str, typer.Option(metavar="SIZE", help="Larger request bodies are refused with 413.")]
StepLog = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append a line of JSON per engine step: what it did, where its time went."),
]
AccessLog = Annotated[bool, typer.Option("--access-log", help="Log one line per HTTP request.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log JSON objects.")]
