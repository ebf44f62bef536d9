"""Incremental decoding whose pieces join to exactly what decoding all tokens at once gives, at a cost per token that does
not grow with the answer."""

from __future__ import annotations

import codecs

from manylora.server.text.token_bytes import TokenBytes

_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Text of one token sequence as it grows. Bytes of a character that is not complete yet are held back.

    `at_start`: the sequence begins a text of its own (a prompt), so the space a SentencePiece tokenizer puts before the first
    word is dropped, as `decode` does; an answer continues its prompt and keeps it."""

    __slots__ = ("_decoder", "_run", "_skip_special", "_strip", "_tokens")

    def __init__(self, tokens: TokenBytes, *, skip_special: bool = True, at_start: bool = False) -> None:
        self._tokens = tokens
        self._skip_special = skip_special
        self._decoder = _utf8(errors="replace")
        self._run = b""
        self._strip = tokens.strip_start if at_start else 0

    def push(self, token: int) -> str:
        """The text that became certain with this token; often that of the token itself, sometimes empty."""
        piece = self._tokens[token]
        if (piece.special and self._skip_special) or not piece.data:
            return ""
        if piece.raw:
            self._run += piece.data
            return ""
        text = self._decoder.decode(piece.data)
        if self._run:
            text = self._end_run() + text
        return self._drop_leading(text) if self._strip else text

    def finish(self) -> str:
        """What was held back; bytes that are no character become U+FFFD."""
        text = self._end_run() + self._decoder.decode(b"", final=True)
        return self._drop_leading(text) if self._strip else text

    def _end_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _drop_leading(self, text: str) -> str:
        while text and self._strip:
            if text[0] != " ":
                self._strip = 0
                return text
            text, self._strip = text[1:], self._strip - 1
        return text
