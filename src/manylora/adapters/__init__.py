"""PEFT adapters: parsing, validation, canonical form and hash."""

from manylora.adapters.loaded import LoadedAdapter, LowRankPair
from manylora.adapters.read import AdapterLimits, read_adapter

__all__ = ["AdapterLimits", "LoadedAdapter", "LowRankPair", "read_adapter"]
