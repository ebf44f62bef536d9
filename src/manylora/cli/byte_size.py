"""Sizes in bytes as people write them: 4GiB, 512MiB, 1.5GB, 1073741824."""

from __future__ import annotations

import re

from manylora.errors import ConfigError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z")


def parse_bytes(text: str) -> int:
    """Bytes. GiB, MiB, KiB and bare G, M, K are powers of 1024; GB, MB, KB powers of 1000. Raises ConfigError."""
    match = _SIZE.match(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{text!r} is not a size; write 4GiB, 512MiB or a number of bytes")
    return int(float(match[1]) * unit)


def show_bytes(size: int) -> str:
    """The shortest exact form that `parse_bytes` reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _UNITS[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
