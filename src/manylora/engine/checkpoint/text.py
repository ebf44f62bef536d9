"""What a Hugging Face folder says about text: tokenizer, special tokens, chat template, end tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from manylora.errors import ModelError

_CLASS_DEFAULTS = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2Tokenizer": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "GPT2Tokenizer": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}
"""What the tokenizer classes of transformers assume when tokenizer_config.json leaves a token out."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no such file. Raises ModelError if it is anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must hold a JSON object, not {type(content).__name__}")
    return content


def read_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json, plus the tokens that only tokenizer_config.json lists. As in transformers 5, tokenizer.json alone decides
    whether text gets a first or last token; `add_bos_token` is of the time before that file."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no tokenizer.json: save the tokenizer with transformers (it writes one) and copy it here")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{path}: cannot be read as a tokenizer ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        _add_listed_tokens(tokenizer, read_json(folder / "tokenizer_config.json"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}/tokenizer_config.json: added_tokens_decoder is malformed ({error})") from error
    _mark_special(tokenizer, read_special_tokens(folder).values())
    return tokenizer


def _add_listed_tokens(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    present = set(tokenizer.get_added_tokens_decoder())
    for index, entry in sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])):
        if int(index) in present:
            continue
        flags = {key: bool(entry.get(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        token = AddedToken(str(entry["content"]), **flags)
        (tokenizer.add_special_tokens if flags["special"] else tokenizer.add_tokens)([token])


def _mark_special(tokenizer: Tokenizer, tokens: Iterable[str]) -> None:
    """Named special tokens are matched whole and never printed, even if tokenizer.json has them as plain vocabulary."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    plain = [token for token in dict.fromkeys(tokens) if token not in special and tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in plain])


def read_special_tokens(folder: Path) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... as transformers' `special_tokens_map` has them."""
    config = read_json(folder / "tokenizer_config.json")
    entries: dict[str, Any] = dict(_CLASS_DEFAULTS.get(str(config.get("tokenizer_class", "")).removesuffix("Fast"), {}))
    entries.update(config)
    if "added_tokens_decoder" not in config:
        entries.update(read_json(folder / "special_tokens_map.json"))
    tokens = {}
    for name, entry in entries.items():
        text = entry.get("content") if isinstance(entry, Mapping) else entry
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def read_chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else the (default) template of tokenizer_config.json, else None."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def read_eos_token_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """generation_config.json first, then config.json, then the tokenizer's own end token."""
    for file in ("generation_config.json", "config.json"):
        found = read_json(folder / file).get("eos_token_id")
        if isinstance(found, int):
            return (found,)
        if isinstance(found, list) and found:
            return tuple(int(index) for index in found)
    token = read_special_tokens(folder).get("eos_token")
    index = None if token is None else tokenizer.token_to_id(token)
    return () if index is None else (index,)
