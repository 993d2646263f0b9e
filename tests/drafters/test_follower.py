"""A pointer into an expected text: back after every edit, and as sure of itself as it may be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.follower import Belief, Follower

TOKENS = st.lists(st.integers(0, 4), max_size=40)
FRESH = 1000  # no text below holds it, nor any number above


def followed(text, output) -> Follower:
    follower = Follower(text)
    for token in output:
        follower.follow(token)
    return follower


def ends_behind(text, piece) -> list[int]:
    """All places that follow an occurrence."""
    size = len(piece)
    return [end for end in range(size, len(text) + 1) if text[end - size : end] == piece]


@given(text=TOKENS, output=TOKENS)
@settings(max_examples=400)
def test_what_occurs_once_is_where_it_goes_on(text, output) -> None:
    """Whatever the output was before: as soon as its end is unmistakable, the place is right."""
    follower = Follower(text)
    for count, token in enumerate(output, start=1):
        follower.follow(token)
        for size in range(1, min(count, 16) + 1):
            places = ends_behind(text, output[count - size : count])
            if len(places) == 1:
                assert follower.place == places[0]


EDITS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5
)


def edited(text, edits) -> tuple[list[int], int]:
    """Replaces, inserts and deletes: (place, tokens that go, tokens that come). And how many came,
    with one more for each edit."""
    output, number, position, surprises = [], FRESH, 0, 0
    for place, gone, come in sorted(edits):
        if place < position or not gone + come:
            continue
        output += text[position:place]
        output += range(number, number + come)
        number += come
        position = place + gone
        surprises += come + 1
    return output + text[position:], surprises


@given(edits=EDITS)
@settings(max_examples=300)
def test_an_edit_surprises_by_what_it_brings_and_once_more(edits) -> None:
    text = list(range(64))
    output, surprises = edited(text, edits)
    follower = Follower(text)
    wrong = 0
    for token in output:
        wrong += follower.next_token != token
        follower.follow(token)
    assert wrong <= surprises


def test_of_many_like_places_it_goes_on_at_the_next() -> None:
    line = [7, 8, 9, 5]
    text = [10, *line, 11, *line, 12, *line, 13, *line]
    follower = followed(text, [10, *line, 11, 7, 8, 99, 5])  # the second line's third is replaced
    assert follower.place == text.index(12)
    assert follower.next_token == 12
    ends = [10, 5, 11, 5, 12, 5, 13, 5]
    assert followed(ends, [10, 5, 11, 5, 12, 99, 5]).next_token == 13


def test_coincidences_in_what_is_inserted_do_not_move_what_is_trusted() -> None:
    text = [1, 2, 3, 4, 0, 5, 6, 0, 7, 8, 0, 9]
    inserted = [20, 0, 21, 0, 22, 0, 23]
    follower = followed(text, [1, 2, 3, 4, *inserted, 0])
    assert follower.next_token == 5


def test_a_token_in_place_of_another_is_guessed() -> None:
    assert followed([1, 2, 3, 4], [1, 99]).next_token == 3


def test_other_borders_of_tokens_are_an_edit_like_any_other() -> None:
    """ "ab" "c" instead of "a" "bc"."""
    text = [1, 2, 10, 11, 3, 4, 5]
    follower = followed(text, [1, 2, 12, 13, 3])
    assert follower.next_token == 4


def test_behind_the_end_nothing_is_expected() -> None:
    follower = followed([1, 2], [1, 2])
    assert follower.next_token is None
    assert follower.guesses(4, -math.inf) == []
    follower.follow(1)
    assert follower.next_token == 2
    assert followed([], [1, 2]).guesses(4, -math.inf) == []


def test_the_first_guess_is_the_beginning() -> None:
    assert [token for token, _ in Follower([5, 6, 7]).guesses(2, -math.inf)] == [5, 6]


def test_it_reads_what_is_new_of_a_sequence() -> None:
    prompt, text = [3, 4, 5], [1, 2, 3, 4, 5, 6]
    follower = Follower(text)
    follower.read(prompt, 0)
    assert follower.next_token == 1
    follower.read([*prompt, 1, 2], 2)
    follower.read([*prompt, 1, 2, 3], 3)
    assert (follower.place, follower.run) == (3, 3)


def test_guesses_are_probabilities_cut_where_the_path_is_worth_too_little() -> None:
    follower = followed(range(200), range(100))
    everything = follower.guesses(50, -math.inf)
    assert len(everything) == 50
    assert all(-1 < log_prob < 0 for _, log_prob in everything)
    least = math.log(0.98)
    some = follower.guesses(50, least)
    assert 0 < len(some) < 50
    assert sum(log_prob for _, log_prob in some) > least
    assert sum(log_prob for _, log_prob in everything[: len(some) + 1]) <= least


def test_long_runs_are_believed_deeper_than_short_ones() -> None:
    deep = [len(followed(range(300), range(n)).guesses(200, math.log(0.5))) for n in (1, 4, 30, 90)]
    assert deep == sorted(deep)
    assert deep[0] < 3
    assert deep[-1] > 60


def test_a_text_of_something_else_is_soon_believed_no_more() -> None:
    unlike = followed(range(500), range(FRESH, FRESH + 40))
    assert unlike.guesses(8, math.log(0.1)) == []


@given(outcomes=st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=60))
def test_rates_are_neither_never_nor_always(outcomes) -> None:
    belief = Belief()
    for run, is_right in outcomes:
        belief.learn(run, is_right)
    assert all(0 < belief.rate(run) < 1 for run in range(200))


def test_rates_come_to_what_is_seen() -> None:
    belief = Belief()
    assert belief.rate(0) == 0.5
    for number in range(400):
        belief.learn(9, number % 4 > 0)
    assert belief.rate(9) == pytest.approx(0.75, abs=0.01)
    assert belief.rate(3) == pytest.approx(4 / 5 * 0.75 / (10 / 11), abs=0.1)  # never seen itself


def test_where_the_text_was_no_help_a_coincidence_is_none_either() -> None:
    belief = Belief()
    before = belief.rate(1)
    for _ in range(20):
        belief.learn(0, False)
    assert belief.rate(1) < before / 3
    for run in range(12):
        belief.learn(run, True)
    assert belief.rate(12) > 0.8  # and soon it is one again
