"""The results of the demo's adapters as people read them."""

from __future__ import annotations

from typing import Any, Final

from demo.data import NAMES

BASE: Final = "base"
"""How results name the base model without an adapter."""

SHARED_PROMPT: Final = "Please move 12 crates of batteries from Geneva to Dublin on 14 March."
"""One request that the base and every adapter answer, each in its own way."""


def table(results: dict[str, Any]) -> str:
    """A Markdown table: who answers in rows, whose held-out prompts in columns, share of right answers in cells."""
    lines = [f"| answering | {' | '.join(f'{name} prompts' for name in NAMES)} |", f"| --- |{' ---: |' * len(NAMES)}"]
    for answering, row in results["right"].items():
        cells = (f"{cell['right']} / {cell['of']}" for cell in (row[asked] for asked in NAMES))
        lines.append(f"| {answering} | {' | '.join(cells)} |")
    return "\n".join(lines)
