"""`manylora merge`: one adapter folded into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manylora.adapters import read_adapter
from manylora.cli.writing import write_with_progress
from manylora.engine.checkpoint import MergedCheckpoint, open_checkpoint


def merge(
    model: Annotated[Path, typer.Argument(help="The base model: a Hugging Face folder or a .gguf file.")],
    adapter: Annotated[Path, typer.Argument(help="The PEFT adapter folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist or be empty.")],
) -> None:
    """Merge one adapter into its base model and write the result as a Hugging Face folder in bfloat16."""
    base = open_checkpoint(model)
    loaded = read_adapter(adapter, base.shape, base_name=str(model))
    for warning in loaded.version.warnings:
        typer.echo(f"warning: {warning}", err=True)
    write_with_progress(MergedCheckpoint(base, loaded), out)
