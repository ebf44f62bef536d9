"""Serve many LoRA adapters on one base model: fast, fairly, provably correct."""
