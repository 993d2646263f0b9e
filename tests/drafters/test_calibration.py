"""Calibration: honest at the start, right after some thousand lessons, quick to notice a change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_drafters.base import DraftLimits, VerifyResult
from cast_drafters.calibration import Calibration, Kind, Reliability
from cast_drafters.growth import ROOT, GrowingTree, Guess
from cast_drafters.lessons import learn_from, learn_paths
from cast_drafters.tree import DraftTree

KIND = Kind.of(is_sampled=False, source=0, depth=1, rank=1)  # second guesses do not surprise
FIRST = Kind.of(is_sampled=False, source=0, depth=1, rank=0)


def teach(calibration, kind, truth, count, seed=0) -> None:
    """`truth`: from confidence to the rate of right guesses."""
    generator = np.random.default_rng(seed)
    for confidence in generator.uniform(0.02, 0.98, count).tolist():
        log = math.log(confidence)
        is_right = generator.random() < truth(confidence)
        calibration.learn(kind, log, bool(is_right))


def told(calibration, kind, confidence) -> float:
    return math.exp(calibration.log_prob(kind, math.log(confidence)))


@given(st.floats(-30.0, 0.0), st.booleans(), st.integers(0, 5), st.integers(1, 9))
def test_before_any_lesson_it_is_the_identity(log, is_sampled, source, depth) -> None:
    found = Calibration().log_prob(Kind.of(is_sampled, source, depth, 0), log)
    assert found == pytest.approx(min(log, math.log(0.999)), abs=1e-6)


@pytest.mark.parametrize("truth", [lambda c: 0.5 * c, lambda c: c**2, math.sqrt, lambda _: 0.3])
def test_a_planted_map_is_learnt(truth) -> None:
    calibration = Calibration()
    teach(calibration, KIND, truth, 12_000)
    for confidence in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert told(calibration, KIND, confidence) == pytest.approx(truth(confidence), abs=0.05)


def test_kinds_are_learnt_apart() -> None:
    calibration = Calibration()
    deep = Kind.of(is_sampled=False, source=0, depth=4, rank=1)
    hot = Kind.of(is_sampled=True, source=0, depth=1, rank=1)
    teach(calibration, KIND, lambda _: 0.8, 3000)
    teach(calibration, deep, lambda _: 0.2, 3000)
    assert told(calibration, KIND, 0.5) > 0.75
    assert told(calibration, deep, 0.5) < 0.25
    assert told(calibration, hot, 0.5) == pytest.approx(0.5)


def test_a_new_row_leans_on_what_its_source_has_shown() -> None:
    calibration = Calibration()
    teach(calibration, KIND, lambda _: 0.1, 3000)
    deep = Kind.of(is_sampled=False, source=0, depth=3, rank=1)
    assert told(calibration, deep, 0.5) < 0.2


def test_a_change_is_noticed_at_once_and_so_is_its_end() -> None:
    calibration = Calibration()
    teach(calibration, FIRST, lambda c: c, 4000)
    assert told(calibration, FIRST, 0.6) == pytest.approx(0.6, abs=0.08)
    teach(calibration, FIRST, lambda _: 0.0, 40)
    assert told(calibration, FIRST, 0.6) < 0.2
    teach(calibration, FIRST, lambda c: c, 60)
    assert told(calibration, FIRST, 0.6) > 0.35


def test_honest_guesses_do_not_surprise() -> None:
    calibration = Calibration()
    teach(calibration, FIRST, lambda c: c, 4000)
    assert calibration.report.error < 0.03


def test_it_survives_a_restart(tmp_path) -> None:
    calibration = Calibration()
    teach(calibration, KIND, lambda c: 0.5 * c, 4000)
    calibration.save(tmp_path / "new" / "it.json")
    again = Calibration.load(tmp_path / "new" / "it.json")
    assert told(again, KIND, 0.6) == pytest.approx(told(calibration, KIND, 0.6), abs=0.05)
    teach(again, KIND, lambda _: 0.9, 3000, seed=1)
    assert told(again, KIND, 0.6) > 0.8  # what was loaded can be unlearnt


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seen": [1], "hits": [1]}', '{"seen": "x"}'])
def test_a_broken_file_is_a_sentence(tmp_path, text) -> None:
    path = tmp_path / "it.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"it\.json is (no calibration|a calibration of another)"):
        Calibration.load(path)


def test_reliability_of_honest_and_of_boastful_predictions() -> None:
    generator = np.random.default_rng(0)
    honest, boastful = Reliability(), Reliability()
    assert math.isnan(honest.error)
    for p in generator.uniform(0.2, 0.8, 5000).tolist():
        honest.add(p, bool(generator.random() < p))
        boastful.add(p, bool(generator.random() < p - 0.2))
    assert honest.error < 0.03
    assert boastful.error == pytest.approx(0.2, abs=0.03)
    assert sum(row["weight"] for row in honest.table()) == 5000


def tree() -> DraftTree:
    """Root: 5 and 6; behind 5: 7 and 8; behind 6: 9."""
    log_probs = np.log([0.5, 0.3, 0.4, 0.1, 0.2])
    return DraftTree(
        np.array([5, 6, 7, 8, 9]),
        np.array([-1, -1, 0, 0, 1], np.int32),
        log_probs,
        np.zeros(5, np.int8),
        np.log([0.5, 0.3, 0.8, 0.2, 0.67]),
        np.array([0, 1, 0, 1, 0], np.int16),
    )


class Notes:
    def __init__(self) -> None:
        self.seen: list[tuple[float, bool]] = []

    def learn(self, kind, confidence, is_right) -> None:
        self.seen.append((round(math.exp(confidence), 2), is_right))


@pytest.mark.parametrize(
    ("tokens", "lessons"),
    [
        ((6, 9, 1), [(0.5, False), (0.3, True), (0.67, True)]),
        ((5, 1), [(0.5, True), (0.3, False), (0.8, False), (0.2, False)]),
        ((1,), [(0.5, False), (0.3, False)]),
        ((5,), [(0.5, True), (0.3, False)]),
        ((), []),
    ],
)
def test_lessons_are_the_candidates_of_accepted_nodes(tokens, lessons) -> None:
    notes = Notes()
    learn_from(notes, tree(), tokens, is_sampled=False)  # type: ignore[arg-type]
    assert notes.seen == lessons


def chain(calibration, confidences) -> DraftTree:
    """Tokens 1, 2, … one behind the other."""
    growing = GrowingTree([], DraftLimits(8, 8, max_width=1), calibration)
    for node, confidence in enumerate(confidences, start=ROOT):
        growing.add_children(node, [Guess(node + 2, math.log(confidence))])
    return growing.finish()


def test_paths_whose_guesses_are_right_together_are_worth_more_than_their_product() -> None:
    """Half of all texts repeat themselves: their first guess is right in 0.7 of all cases, of the
    others in 0.3, and both have a confidence of 0.5. Only the second guess knows which is which."""
    calibration = Calibration()
    generator = np.random.default_rng(0)
    expected, accepted = np.zeros(2), np.zeros(2)
    for number in range(9000):
        repeats = generator.random() < 0.5
        tree = chain(calibration, (0.5, 0.7 if repeats else 0.1))
        is_right = generator.random(2) < ((0.7, 0.7) if repeats else (0.3, 0.1))
        length = int(np.cumprod(is_right).sum())
        tokens = (*range(1, length + 1), 99)
        learn_from(calibration, tree, tokens, is_sampled=False)
        result = VerifyResult("a", tree, tuple(range(length)), tokens)
        learn_paths(calibration, result, is_sampled=False)
        if number >= 1000:
            expected += np.exp(tree.log_probs_T)
            accepted += np.arange(2) < length
        assert tree.log_probs_T[1] <= tree.log_probs_T[0]
    assert expected == pytest.approx(accepted, rel=0.05)
    assert calibration.step_log_prob(is_sampled=False, depth=2) > 0.15
    assert calibration.step_log_prob(is_sampled=True, depth=2) == 0.0


def test_what_is_known_of_paths_survives_a_restart(tmp_path) -> None:
    calibration = Calibration()
    for _ in range(200):
        calibration.learn_paths(is_sampled=False, depth=2, expected=0.3, accepted=1)
    calibration.save(tmp_path / "it.json")
    again = Calibration.load(tmp_path / "it.json")
    known = calibration.step_log_prob(is_sampled=False, depth=2)
    assert known > 0.1
    assert again.step_log_prob(is_sampled=False, depth=2) == pytest.approx(known, abs=0.001)


def test_a_factor_stays_within_reason() -> None:
    calibration = Calibration()
    for _ in range(10_000):
        calibration.learn_paths(is_sampled=False, depth=2, expected=0.1, accepted=1)
    assert calibration.step_log_prob(is_sampled=False, depth=2) == pytest.approx(math.log(2))
