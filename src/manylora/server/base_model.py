"""What the HTTP layer needs to know of the base model: its names, its text conventions, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from manylora.errors import ModelError, RequestError
from manylora.server.chat_template import ChatTemplate
from manylora.server.registry import NamedAdapter
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
        return cls(root, tokenizer, TokenBytes(tokenizer), eos_token_ids, vocab, special_tokens, template, merged)

    def template_for(self, adapter: NamedAdapter | None) -> ChatTemplate:
        """The adapter's own chat template if it brought one, else the base model's. Raises RequestError if there is none."""
        if adapter is not None and adapter.chat_template is not None:
            return _compiled(adapter.chat_template, tuple(self.special_tokens.items()))
        if self.template is None:
            raise RequestError("this model has no chat template; use /v1/completions", "messages")
        return self.template


@lru_cache(maxsize=256)
def _compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))
