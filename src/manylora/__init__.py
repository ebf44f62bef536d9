"""Serve many LoRA adapters on one base model: fast, fairly, provably correct."""

from importlib.metadata import version

__version__ = version("manylora")
