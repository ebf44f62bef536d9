"""What the HTTP layer needs to know of the base model: its names, its text conventions, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from manylora.errors import ModelError
from manylora.server.chat_template import ChatTemplate
from manylora.server.text.token_bytes import TokenBytes
from manylora.types.adapter import AdapterVersion


@dataclass(frozen=True)
class BaseModel:
    """The base model as text. `vocab` is the number of token ids the engine accepts."""

    root: Path
    tokenizer: Tokenizer
    tokens: TokenBytes
    eos_token_ids: tuple[int, ...]
    vocab: int
    special_tokens: Mapping[str, str]
    template: ChatTemplate | None
    characters_per_token: int
    """No text has fewer tokens than its characters divided by this."""
    merged: AdapterVersion | None = None
    """The adapter that was merged into its weights, if one was."""

    @classmethod
    def create(
        cls,
        root: Path,
        tokenizer: Tokenizer,
        *,
        eos_token_ids: tuple[int, ...],
        vocab: int,
        special_tokens: Mapping[str, str],
        chat_template: str | None,
        merged: AdapterVersion | None = None,
    ) -> BaseModel:
        """Raises ModelError if the tokenizer's decoder or the chat template cannot be used."""
        try:
            template = None if chat_template is None else ChatTemplate(chat_template, special_tokens)
        except ValueError as error:
            raise ModelError(f"{root}: {error}") from error
        tokens, widest = TokenBytes(tokenizer), _characters_per_token(tokenizer)
        return cls(root, tokenizer, tokens, eos_token_ids, vocab, special_tokens, template, widest, merged)


def _characters_per_token(tokenizer: Tokenizer) -> int:
    """A token's name has a character for each byte (byte-level) or for each character that it stands for. Composing (NFC) may
    have made two bytes of three characters, never of four."""
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=1)
    return longest if tokenizer.normalizer is None else 2 * longest
