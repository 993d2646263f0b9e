"""An expected text beside any drafter: within limits, and no pass where it is trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from drafters_at_work import MAKERS

from cast_drafters.base import DraftContext, DraftLimits, LevelGate, VerifyResult
from cast_drafters.ngram import NgramDrafter
from cast_drafters.predicted import PredictedDrafter
from cast_drafters.tree import PREDICTED, DraftTree, tree_from_arrays

PROMPT = [1, 2, 3, 4]
TEXT = tuple(int(token) for token in np.random.default_rng(1).integers(0, 60, 80))
ROOMY = DraftLimits(32, 64, 4)
SIZES = list(product([1, 8, 40], [1, 3, 40], [1, 4]))


def plain_context(token_ids) -> DraftContext:
    return DraftContext(
        "b", token_ids, DraftLimits(8, 8, 4), 0.0, 0, 200 + np.arange(len(token_ids))
    )


@pytest.fixture(params=MAKERS)
def drafter(request: pytest.FixtureRequest) -> PredictedDrafter:
    return PredictedDrafter(MAKERS[request.param]())


def context(num_output: int, limits: DraftLimits = ROOMY, text=TEXT) -> DraftContext:
    """Of a sequence that has come as expected so far."""
    token_ids = [*PROMPT, *TEXT[:num_output]]
    slots_L = np.arange(len(token_ids))
    return DraftContext(
        "a", token_ids, limits, 0.0, 0, slots_L, num_output=num_output, prediction=text
    )


def propose(drafter, num_output: int, limits: DraftLimits = ROOMY, gate=None) -> DraftTree:
    drafter.begin("a", PROMPT)
    [tree] = drafter.propose([context(num_output, limits)], gate)
    return tree


def chain_of(tree: DraftTree) -> list[int]:
    return tree.token_ids_T[tree.sources_T == PREDICTED].tolist()


def test_the_text_is_drafted_deep_where_it_has_come_true(drafter) -> None:
    assert chain_of(propose(drafter, 40)) == list(TEXT[40:72])
    worth = [propose(drafter, count).log_probs_T[-1] for count in (2, 10, 40)]
    assert worth == sorted(worth)
    assert worth[0] < math.log(0.2) < math.log(0.8) < worth[-1]


@pytest.mark.parametrize("limits", [DraftLimits(*sizes) for sizes in SIZES], ids=str)
def test_trees_are_valid_and_within_limits(drafter, limits: DraftLimits) -> None:
    for num_output in (1, 3, 20):
        tree = propose(drafter, num_output, limits)
        tree_from_arrays(tree.token_ids_T, tree.parents_T, tree.log_probs_T)
        assert 0 < len(tree) <= limits.max_nodes
        assert max(tree.depths_T) <= limits.max_depth
        assert np.bincount(tree.parents_T + 1).max() <= limits.max_width


@pytest.mark.parametrize("sizes", [(0, 0, 0), (0, 8, 4), (8, 0, 4), (8, 8, 0)])
def test_nothing_allowed_nothing_drafted(drafter, sizes) -> None:
    assert len(propose(drafter, 5, DraftLimits(*sizes))) == 0


def test_without_a_text_all_is_as_it_was(drafter) -> None:
    loop = plain_context(PROMPT * 3)
    [tree], [same] = (one.propose([loop]) for one in (drafter, MAKERS[drafter.name]()))
    assert tree.token_ids_T.tolist() == same.token_ids_T.tolist()
    assert tree.log_probs_T.tolist() == pytest.approx(same.log_probs_T.tolist(), abs=1e-4)


def test_sequences_with_and_without_a_text_share_a_step(drafter) -> None:
    other = plain_context(PROMPT * 6)
    mine, others = drafter.propose([context(40), other])
    [alone] = MAKERS[drafter.name]().propose([other])
    assert chain_of(mine) == list(TEXT[40:72])
    assert others.token_ids_T.tolist() == alone.token_ids_T.tolist()


class Watching(LevelGate):
    """Lets a pass happen where little is known without, and remembers what it was told."""

    def __init__(self) -> None:
        self.known: list[float] = []
        self.found: list[Sequence[float]] = []
        self.passes = 0

    def widths(self, level, frontiers):
        [one] = frontiers
        if level:
            return [0]
        self.known.append(sum(one.free(1)[0]))
        chosen = int(self.known[-1] < 0.6)
        self.passes += chosen
        return [chosen]

    def ran(self, level, frontiers, children) -> None:
        self.found += [one for [one] in children]
        assert all(sum(frontier.free(1)[0]) <= 1 for frontier in frontiers)


@pytest.mark.parametrize("name", ["eagle", "draft-model"])
def test_a_trusted_text_spares_the_passes_of_a_model(name) -> None:
    gate = Watching()
    drafter = PredictedDrafter(MAKERS[name]())
    for num_output in (1, 60):
        assert propose(drafter, num_output, gate=gate).sources_T.tolist().count(PREDICTED) > 0
    assert gate.known[1] > 0.9
    assert gate.passes <= 1  # only at the beginning, if at all
    assert all(1 >= sum(one) >= one[0] > 0 for one in gate.found)


def test_released_sequences_leave_nothing_and_may_come_again(drafter) -> None:
    propose(drafter, 30)
    drafter.release("a")
    drafter.release("never seen")
    assert not drafter._followers
    assert chain_of(propose(drafter, 0))[:1] == list(TEXT[:1])


def test_the_drafter_learns_from_its_own_guesses_only() -> None:
    """Paths of the text say nothing of how far paths of n-grams can be trusted."""
    lessons: list[VerifyResult] = []

    class Pupil(NgramDrafter):
        def observe(self, results) -> None:
            lessons.extend(results)

    drafter = PredictedDrafter(Pupil())
    tree = propose(drafter, 30)
    drafter.observe([VerifyResult("a", tree, (0, 1), (*TEXT[30:32], 5))])
    own = tree_from_arrays([1], [-1], [-0.5])
    drafter.observe([VerifyResult("b", own, (0,), (1, 2))])
    assert [(len(one.tree), one.token_ids) for one in lessons] == [
        (0, (*TEXT[30:32], 5)),
        (1, (1, 2)),
    ]


def test_it_goes_by_the_name_and_the_calibration_of_its_drafter(drafter) -> None:
    assert (drafter.name, drafter.calibration) == (drafter.inner.name, drafter.inner.calibration)
