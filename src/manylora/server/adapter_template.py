"""The chat template an adapter folder brings. Its files are read as strictly as the adapter's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from manylora.adapters.files import read_file
from manylora.errors import AdapterRejected

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILE = "tokenizer_config.json"
MAX_TEMPLATE_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 16 << 20
"""Vocabularies with many added tokens make this file long."""


def read_adapter_template(folder: Path) -> str | None:
    """The source of the chat template: chat_template.jinja, else `chat_template` in tokenizer_config.json; None if there is none.

    It is neither compiled nor run. Raises AdapterRejected if a file is too large, is not readable text, or lies outside."""
    if os.path.lexists(folder / TEMPLATE_FILE):
        return _text(folder, TEMPLATE_FILE, MAX_TEMPLATE_BYTES)
    if not os.path.lexists(folder / TOKENIZER_FILE):
        return None
    text = _text(folder, TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    try:
        source = json.loads(text).get("chat_template")
    except (ValueError, AttributeError, RecursionError) as error:
        raise AdapterRejected(f"{folder}: {TOKENIZER_FILE} is not a JSON object: {error}") from error
    if isinstance(source, list):
        source = next((item.get("template") for item in source if isinstance(item, dict) and item.get("name") == "default"), None)
    if source is not None and not isinstance(source, str):
        raise AdapterRejected(f"{folder}: the chat template in {TOKENIZER_FILE} is not text")
    if source is not None and len(source) > MAX_TEMPLATE_BYTES:
        raise AdapterRejected(
            f"{folder}: the chat template in {TOKENIZER_FILE} has {len(source)} characters, the limit is {MAX_TEMPLATE_BYTES}"
        )
    return source


def _text(folder: Path, name: str, limit: int) -> str:
    content = read_file(folder, name, limit)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise AdapterRejected(f"{folder}: {name} is not UTF-8 text: {error}") from error
