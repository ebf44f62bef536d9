"""Tokens to text: exact, incremental, and cut at stop strings wherever the token boundaries fall."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from manylora.errors import ModelError
from manylora.server.text.answer import Answer, TextOptions
from manylora.server.text.detokenize import Detokenizer
from manylora.server.text.stop_strings import StopMatcher
from manylora.server.text.token_bytes import TokenBytes
from manylora.types.request import RequestOutput, TokenLogprob

from .tiny_tokenizers import byte_level, sentence_piece_like

BYTES = TokenBytes(byte_level())
PIECES = TokenBytes(sentence_piece_like())
byte_ids = st.lists(st.integers(0, byte_level().get_vocab_size() + 3), max_size=40)
piece_ids = st.lists(st.integers(0, sentence_piece_like().get_vocab_size() + 3), max_size=40)
# Few letters, so that strings begin, overlap and contain one another often.
texts = st.text("ab\u00e9", max_size=40)
stops = st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)


def joined(tokens: TokenBytes, ids: list[int], *, skip_special: bool, at_start: bool) -> str:
    detokenizer = Detokenizer(tokens, skip_special=skip_special, at_start=at_start)
    return "".join([detokenizer.push(token) for token in ids]) + detokenizer.finish()


@given(byte_ids, st.booleans())
def test_byte_level_pieces_join_to_decode(ids: list[int], skip_special: bool) -> None:
    """The stream's pieces join to what decoding all tokens at once gives: any ids, broken UTF-8 and unknown ids included."""
    expected = byte_level().decode(ids, skip_special_tokens=skip_special)
    assert joined(BYTES, ids, skip_special=skip_special, at_start=True) == expected


@given(piece_ids, st.booleans())
def test_byte_fallback_pieces_join_to_decode(ids: list[int], skip_special: bool) -> None:
    """The same for SentencePiece-like tokenizers, whose runs of byte tokens are valid or not as a whole."""
    expected = sentence_piece_like().decode(ids, skip_special_tokens=skip_special)
    assert joined(PIECES, ids, skip_special=skip_special, at_start=True) == expected


@given(piece_ids)
def test_answer_continues_its_prompt(ids: list[int]) -> None:
    """An answer is what its tokens add to the prompt's text: the space before its first word is kept."""
    prompt = sentence_piece_like().encode("the", add_special_tokens=False).ids
    before, both = sentence_piece_like().decode(prompt), sentence_piece_like().decode(prompt + ids)
    assert before + joined(PIECES, ids, skip_special=True, at_start=False) == both


def test_real_text_streams_without_replacement_characters() -> None:
    """Characters split over tokens are held back until they are whole, never shown broken."""
    text = "naïve 🙂👩‍👩‍👧 你好 Привет"
    detokenizer = Detokenizer(BYTES)
    pieces = [detokenizer.push(token) for token in byte_level().encode(text).ids]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_unknown_decoder_is_refused_by_name() -> None:
    """A tokenizer whose decoding we do not reproduce exactly is refused at start, not approximated."""
    tokenizer = Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="WordPiece"):
        TokenBytes(tokenizer)


def first_stop(text: str, stops: tuple[str, ...], floor: int = 0) -> tuple[int, int, str] | None:
    """(end, start, stop) of the match that ends first after `floor`, the longest of those; by plain search."""
    found = [
        (start + len(stop), start, stop)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start) and start + len(stop) > floor
    ]
    return min(found) if found else None


@given(texts, stops, st.booleans(), st.data())
def test_stop_strings_match_plain_search(text: str, stops: tuple[str, ...], include: bool, data: st.DataObject) -> None:
    """However the text is cut into pieces, it ends where plain search over the whole text says, and says which string did it."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    matcher = StopMatcher(stops, include=include)
    out = "".join(matcher.push(piece) for piece in pieces) + matcher.finish()
    found = first_stop(text, stops)
    if found is None:
        assert (out, matcher.matched) == (text, None)
    else:
        end, start, stop = found
        assert (out, matcher.matched) == (text[: end if include else start], stop)


@given(texts, stops, st.data())
def test_stop_strings_hold_back_no_more_than_needed(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    """Held-back text is always the beginning of some stop string, so streaming lags as little as is possible."""
    matcher = StopMatcher(stops)
    shown = ""
    for place, char in enumerate(text, start=1):
        shown += matcher.push(char)
        if matcher.matched is not None:
            return
        held = text[len(shown) : place]
        assert any(stop.startswith(held) for stop in stops)


@given(texts, stops, st.integers(0, 10))
def test_stop_strings_are_off_until_min_tokens(text: str, stops: tuple[str, ...], floor: int) -> None:
    """A match that ends within the first `min_tokens` tokens does not end the answer; one that ends after them does."""
    matcher = StopMatcher(stops)
    out = "".join(matcher.push(char, armed=place >= floor) for place, char in enumerate(text)) + matcher.finish()
    found = first_stop(text, stops, floor)
    assert out == (text if found is None else text[: found[1]])


letters = [byte_level().token_to_id(token) for token in ("a", "b", "e", "Ã", "©", "<|im_end|>", "he")]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(letters), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=3),
    st.integers(1, 4),
)
def test_answer_text_and_offsets(ids: list[int], places: list[tuple[int, int]], per_step: int) -> None:
    """Over whole answers: text as by search in the decoded tokens, one score per counted token, offsets within the text."""
    full = byte_level().decode(ids, skip_special_tokens=True)
    # Stop strings from the text itself, so that most of them occur; those from beyond its end are no strings.
    stops = [full[start : start + length] for start, length in places if start < len(full)]
    answer = Answer(BYTES, TextOptions(stop=tuple(stops)))
    text, scored, ending = "", [], None
    for place in range(0, len(ids), per_step):
        chunk = ids[place : place + per_step]
        last = place + per_step >= len(ids)
        scores = [TokenLogprob(token, -1.0) for token in chunk]
        delta = answer.push(RequestOutput("r", chunk, logprobs=scores, finish_reason="length" if last else None))
        if delta is not None:
            text, scored, ending = text + delta.text, scored + delta.scored, delta.finish_reason
        if ending:
            break
    found = first_stop(full, tuple(stops))
    assert text == (full if found is None else full[: found[1]])
    assert ending == ("length" if found is None else "stop")
    assert [item.logprob.token for item in scored] == ids[: answer.token_count]
    offsets = [item.offset for item in scored]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)


def test_stop_token_is_not_text_unless_asked_for() -> None:
    """The token that ended an answer is counted and scored but not shown, unless include_stop_str_in_output."""
    letter = byte_level().token_to_id("z")
    output = RequestOutput("r", [letter], finish_reason="stop", stop_token=letter)
    hidden, shown = Answer(BYTES, TextOptions()), Answer(BYTES, TextOptions(include_stop=True))
    assert hidden.push(output).text == ""
    assert shown.push(output).text == "z"
    assert hidden.token_count == 1
