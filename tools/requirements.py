"""Prints the requirements of the named extras of pyproject.toml, one a line: pip has no option to install extras alone."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

extras = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
print("\n".join(requirement for name in sys.argv[1:] for requirement in extras[name]))
