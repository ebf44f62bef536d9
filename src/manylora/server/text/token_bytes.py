"""What each token contributes to text, as bytes, for the tokenizers that the supported model families ship.

Two kinds exist. Byte-level BPE (GPT-2 style: Llama 3, SmolLM2, Qwen, Mistral's later ones) writes every byte as a printable
character; text is the concatenated bytes read as UTF-8. SentencePiece-like BPE (Llama 2, early Mistral) writes a space as U+2581
and falls back to tokens <0xNN> for bytes; a run of such tokens counts only if the whole run is valid UTF-8."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from manylora.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token's share of the text. `raw`: the bytes belong to a byte-fallback run and are judged with it."""

    data: bytes
    special: bool = False
    raw: bool = False


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's map from printable characters to the bytes they stand for."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


@dataclass(frozen=True, slots=True)
class _Decoding:
    """What a tokenizer's decoder does, reduced to what differs between the supported kinds."""

    byte_level: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    strip_start: int = 0
    """Spaces dropped at the start of the whole text."""


def _decoding(tokenizer: Tokenizer) -> _Decoding:
    decoder = tokenizer.decoder
    if decoder is None:
        raise ModelError("the tokenizer has no decoder; tokenizer.json must say how tokens become text")
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    result = _Decoding()
    for step in steps:
        result = _add_step(result, step)
    return result


def _add_step(so_far: _Decoding, step: dict[str, Any]) -> _Decoding:
    match step:
        case {"type": "ByteLevel"}:
            return _Decoding(True, so_far.replacements, so_far.byte_fallback, so_far.strip_start)
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return _Decoding(so_far.byte_level, (*so_far.replacements, (old, new)), so_far.byte_fallback, so_far.strip_start)
        case {"type": "Metaspace", "replacement": old, "prepend_scheme": scheme}:
            strip = 0 if scheme == "never" else 1
            return _Decoding(so_far.byte_level, (*so_far.replacements, (old, " ")), so_far.byte_fallback, strip)
        case {"type": "ByteFallback"}:
            return _Decoding(so_far.byte_level, so_far.replacements, True, so_far.strip_start)
        case {"type": "Fuse"}:
            return so_far
        case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
            return _Decoding(so_far.byte_level, so_far.replacements, so_far.byte_fallback, start)
        case _:
            raise ModelError(f"the tokenizer's decoder step {step.get('type')!r} is not supported: {json.dumps(step)[:120]}")


class TokenBytes:
    """Token id -> Piece, computed on first use and kept. Ids the tokenizer does not know contribute nothing, as in `decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoding = _decoding(tokenizer)
        self._alphabet = byte_level_alphabet()
        self._special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._pieces: dict[int, Piece] = {}

    @property
    def strip_start(self) -> int:
        """Spaces that `decode` drops at the very start of a text."""
        return self._decoding.strip_start

    def __getitem__(self, token: int) -> Piece:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._compute(token)
        return piece

    def _compute(self, token: int) -> Piece:
        text = self._tokenizer.id_to_token(token)
        special = token in self._special
        if text is None:
            return Piece(b"", special)
        if self._decoding.byte_level:
            values = [self._alphabet.get(char) for char in text]
            known = [value for value in values if value is not None]
            return Piece(bytes(known) if len(known) == len(values) else text.encode(), special)
        for old, new in self._decoding.replacements:
            text = text.replace(old, new)
        fallback = _BYTE_TOKEN.match(text) if self._decoding.byte_fallback else None
        if fallback is not None:
            return Piece(bytes([int(fallback[1], 16)]), special, raw=True)
        return Piece(text.encode(), special)

    def show(self, token: int) -> tuple[str, bytes]:
        """A token by itself, as log-probabilities name it: its text, or "bytes:\\xNN..." where it is only part of a character."""
        data = self[token].data
        try:
            return data.decode(), data
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data
