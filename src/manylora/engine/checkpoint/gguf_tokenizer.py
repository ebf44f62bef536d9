"""A tokenizers.Tokenizer rebuilt from the vocabulary that a GGUF file carries (byte-level BPE only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from manylora.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of the GGUF specification: matched whole in text; control tokens are also special."""

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGITS_THEN_GPT2, _GPT2 = "digits", "gpt2"
_PRE_TOKENIZERS = {
    "smollm": _DIGITS_THEN_GPT2,
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": _QWEN2_SPLIT,
    "gpt-2": _GPT2,
}
"""`tokenizer.ggml.pre` -> how text is cut before merging, as the models' own tokenizer.json files do it."""


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What `tokenizer.ggml.*` says. `types` is parallel to `tokens`; `bos` is a token id."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    bos: int | None
    add_bos: bool


def build_tokenizer(vocabulary: GgufVocabulary, source: str) -> Tokenizer:
    """The tokenizer that the model was trained with. Raises ModelError for vocabularies other than byte-level BPE."""
    if vocabulary.model != "gpt2":
        raise ModelError(
            f"{source}: tokenizer model {vocabulary.model!r} in GGUF is not supported (only byte-level BPE, 'gpt2'): "
            f"use the model's Hugging Face folder instead"
        )
    split = _PRE_TOKENIZERS.get(vocabulary.pre)
    if split is None:
        known = ", ".join(_PRE_TOKENIZERS)
        raise ModelError(
            f"{source}: pre-tokenizer {vocabulary.pre!r} is not supported (known: {known}): use the Hugging Face folder"
        )
    merges = [_pair(merge, source) for merge in vocabulary.merges]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    # Llama 3 looks a whole piece up in the vocabulary before it merges; the others always merge.
    bpe = models.BPE(vocab=ids, merges=merges, ignore_merges=split == _LLAMA3_SPLIT)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    tokenizer.decoder = decoders.ByteLevel()
    if split == _QWEN2_SPLIT:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = _post_processor(vocabulary)
    _add_whole_tokens(tokenizer, vocabulary)
    return tokenizer


def _pair(merge: str, source: str) -> tuple[str, str]:
    left, separator, right = merge.partition(" ")
    if not separator or not left or not right:
        raise ModelError(f"{source}: merge rule {merge!r} is not two tokens: the file is damaged")
    return left, right


def _pre_tokenizer(split: str) -> pre_tokenizers.PreTokenizer:
    if split == _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split == _DIGITS_THEN_GPT2:
        cut = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    isolated = pre_tokenizers.Split(Regex(split), behavior="isolated")
    return pre_tokenizers.Sequence([isolated, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _post_processor(vocabulary: GgufVocabulary) -> processors.PostProcessor:
    if not vocabulary.add_bos or vocabulary.bos is None:
        return processors.ByteLevel(trim_offsets=False)
    bos = vocabulary.tokens[vocabulary.bos]
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, vocabulary.bos)]
    )
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])


def _add_whole_tokens(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    control, plain = [], []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == _CONTROL:
            control.append(AddedToken(token, normalized=False, special=True))
        elif kind == _USER_DEFINED:
            plain.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(plain)
