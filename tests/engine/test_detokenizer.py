"""Text as it streams: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import pytest
import tiny_models
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cast_server.engine.detokenizer import TextStream
from cast_server.engine.request import SamplingParams

# U+FFFD itself looks like half a character; see test_a_real_replacement_character.
TEXT = st.text(
    st.sampled_from("ab .é🙂猫") | st.characters(exclude_categories=["Cs"], exclude_characters="�"),
    max_size=30,
)
SHORT = st.text("ab .é🙂猫", min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.byte_level_tokenizer()


def read(tokenizer, token_ids, params, may_stop_from=0) -> tuple[list[str], str | None]:
    """The pieces that come out, flushed as at the end of a sequence; and the stop string."""
    stream = TextStream(tokenizer, params)
    pieces: list[str] = []
    for index, token_id in enumerate(token_ids):
        text, stop = stream.push(token_id, index >= may_stop_from)
        pieces.append(text)
        if stop is not None:
            return [*pieces, stream.flush()], stop
    return [*pieces, stream.flush()], None


def single_bytes(tokenizer, text: str) -> list[int]:
    """One token a byte, so that every stop string spans several."""
    alphabet = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    mapped = "".join(piece for piece, _ in alphabet(text))
    return tokenizer.convert_tokens_to_ids(list(mapped))


def cut(text: str, stops, include=False) -> tuple[str, str | None]:
    """The specification: the stop that ends first wins, of those the one that begins first."""
    found = [(text.find(s) + len(s), text.find(s), s) for s in stops if s in text]
    if not found:
        return text, None
    end, begin, stop = min(found)
    return text[: end if include else begin], stop


@pytest.mark.parametrize("text", ["🙂", "a🙂b", "👩‍👩‍👧 and 猫", "Füße 🙂🙂 straße"])
def test_half_a_character_is_never_given_out(tokenizer, text) -> None:
    for token_ids in (single_bytes(tokenizer, text), tokenizer.encode(text)):
        pieces, _ = read(tokenizer, token_ids, SamplingParams())
        assert "".join(pieces) == text
        assert not any("�" in piece for piece in pieces)
    assert len(single_bytes(tokenizer, text)) == len(text.encode())


def test_an_unfinished_character_is_flushed_as_a_replacement(tokenizer) -> None:
    token_ids = single_bytes(tokenizer, "a🙂")[:-1]
    pieces, _ = read(tokenizer, token_ids, SamplingParams())
    assert pieces[:-1] == ["a", "", "", ""]
    assert "".join(pieces) == tokenizer.decode(token_ids) == "a�"


def test_a_real_replacement_character(tokenizer) -> None:
    for text in ("a�b", "a�", "�"):
        pieces, _ = read(tokenizer, single_bytes(tokenizer, text), SamplingParams())
        assert "".join(pieces) == text


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_pieces_add_up_to_the_whole(tokenizer, text) -> None:
    for token_ids in (single_bytes(tokenizer, text), tokenizer.encode(text)):
        assert "".join(read(tokenizer, token_ids, SamplingParams())[0]) == text
        stopped = SamplingParams(stop=("never there",))
        assert "".join(read(tokenizer, token_ids, stopped)[0]) == text


@given(token_ids=st.lists(st.integers(0, tiny_models.VOCAB_SIZE - 1), max_size=25))
@settings(max_examples=150, deadline=None)
def test_any_tokens_read_as_they_decode(tokenizer, token_ids) -> None:
    """Broken bytes too."""
    pieces, _ = read(tokenizer, token_ids, SamplingParams())
    assert "".join(pieces) == tokenizer.decode(token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("skip", [True, False])
def test_special_tokens(tokenizer, skip) -> None:
    token_ids = [*tokenizer.encode("a b"), tokenizer.eos_token_id, *tokenizer.encode("c")]
    pieces, _ = read(tokenizer, token_ids, SamplingParams(skip_special_tokens=skip))
    assert "".join(pieces) == ("a bc" if skip else "a b<|end|>c")


def test_what_may_begin_a_stop_is_held_back(tokenizer) -> None:
    params = SamplingParams(stop=("bcd",))
    pieces, stop = read(tokenizer, single_bytes(tokenizer, "abcabcde"), params)
    assert pieces == ["a", "", "", "bca", "", "", "", ""]
    assert stop == "bcd"
    pieces, stop = read(tokenizer, single_bytes(tokenizer, "abc"), params)
    assert (pieces, stop) == (["a", "", "", "bc"], None)


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_across_and_inside_tokens(tokenizer, include) -> None:
    params = SamplingParams(stop=("the end", "🙂"), include_stop_str_in_output=include)
    token_ids = tokenizer.encode("and then the end. The end")
    assert len(tokenizer.encode("the end")) > 1
    pieces, stop = read(tokenizer, token_ids, params)
    assert ("".join(pieces), stop) == ("and then " + "the end" * include, "the end")
    pieces, stop = read(tokenizer, tokenizer.encode("ab🙂c"), params)
    assert ("".join(pieces), stop) == ("ab" + "🙂" * include, "🙂")


def test_a_stop_that_ended_too_early_does_not_count_later(tokenizer) -> None:
    """Before `min_tokens`, a stop string is text like any other, even while it is held back."""
    params = SamplingParams(stop=("ab", "xabyabz"))
    token_ids = single_bytes(tokenizer, "xabyab")
    pieces, stop = read(tokenizer, token_ids, params, may_stop_from=3)
    assert ("".join(pieces), stop) == ("xaby", "ab")


@given(
    text=TEXT,
    stops=st.lists(SHORT, min_size=1, max_size=3, unique=True),
    include=st.booleans(),
    in_bytes=st.booleans(),
)
@example(text="aab", stops=["aab", "ab", "b"], include=False, in_bytes=True)
@settings(max_examples=300, deadline=None)
def test_text_is_cut_at_the_stop_that_ends_first(tokenizer, text, stops, include, in_bytes) -> None:
    token_ids = single_bytes(tokenizer, text) if in_bytes else tokenizer.encode(text)
    params = SamplingParams(stop=tuple(stops), include_stop_str_in_output=include)
    pieces, stop = read(tokenizer, token_ids, params)
    assert ("".join(pieces), stop) == cut(text, stops, include)
