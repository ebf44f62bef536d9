"""The page of commands says what the commands say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_option_and_default_of_the_help_stands_in_the_page() -> None:
    """docs/cli.md is written from the help; compared without layout, which differs between releases of the libraries."""
    reference = runpy.run_path(str(ROOT / "tools" / "cli_reference.py"))
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in reference["COMMANDS"][1:]:
        section = page.split(f"## manylora {command}\n")[1].split("\n## ")[0]
        assert words(reference["help_of"](command)) == words(section.replace("```", "")), (
            f"run python tools/cli_reference.py ({command})"
        )


def words(text: str) -> list[str]:
    """The words of a text, without the marks of its layout."""
    return re.findall(r"[\w./:=-]{2,}", text)
