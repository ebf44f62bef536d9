"""Writes docs/cli.md from the commands' own help: `python tools/cli_reference.py`; with `--check` only compares.

The help is what the program says, so the page cannot say anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
COMMANDS = ("", "serve", "convert", "merge", "roofline")
COLUMNS = "110"


def help_of(command: str) -> str:
    """What `manylora COMMAND --help` prints."""
    arguments = [sys.executable, "-m", "manylora", *command.split(), "--help"]
    environment = os.environ | {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in printed.replace("python -m manylora", "manylora").strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = ["# Commands\n\nWritten by `tools/cli_reference.py` from the commands' own help; do not edit.\n"]
    for command in COMMANDS:
        parts.append(f"## {f'manylora {command}'.strip()}\n\n```\n{help_of(command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE.name} is not what the commands say: run python tools/cli_reference.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")
