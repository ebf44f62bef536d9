"""Writing a checkpoint with a progress bar on standard error."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manylora.engine.checkpoint import Checkpoint, write_hf_folder
from manylora.errors import ConfigError


def write_with_progress(checkpoint: Checkpoint, out: Path) -> None:
    """Writes `checkpoint` to the folder `out` and says so. Raises ConfigError if it cannot be written, and what
    write_hf_folder raises."""
    console = Console(stderr=True)
    columns = (TextColumn("writing {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(out.name, total=len(checkpoint.names()))
        try:
            write_hf_folder(checkpoint, out, lambda name, done, total: progress.update(task, completed=done, total=total))
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written: {error.strerror or error}; name a folder elsewhere") from error
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)
