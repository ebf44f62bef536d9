"""An adapter as the rest of the house sees it: its content, named by its hash."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable adapter. `hash` (hex, SHA-256 of the canonical config and tensors) is its only identity: cache key,
    prefix-cache salt, metric label, audit record. `modules` counts the projections it changes, over all layers."""

    hash: str
    bytes: int
    """Bytes of its tensors at true rank, in bfloat16."""
    ranks: tuple[int, ...]
    """The distinct ranks in it, ascending."""
    projections: tuple[str, ...]
    modules: int
    base_model: str | None = None
    """The base its trainer recorded."""
    warnings: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The hash as people read it."""
        return self.hash[:12]
