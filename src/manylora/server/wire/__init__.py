"""Answers as bytes: JSON bodies and server-sent events, written without a model object per token."""
