"""What every drafter in the registry promises the engine."""

from __future__ import annotations

from importlib import import_module
from itertools import product

import numpy as np
import pytest
from drafters_at_work import MAKERS

from cast_drafters.base import DraftContext, Drafter, DraftLimits, VerifyResult
from cast_drafters.registry import DRAFTERS, create_drafter
from cast_drafters.tree import DraftTree, tree_from_arrays

SEQUENCES = {
    "loop": [1, 2, 3, 4] * 6,
    "one": [7],
    "constant": [5] * 30,
    "random": np.random.default_rng(0).integers(0, 6, 200).tolist(),
    "branching": [1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2],
}
LIMITS = [DraftLimits(*sizes) for sizes in product([1, 8, 40], [1, 3, 8], [1, 4])]


FIRST_SLOTS = {"loop": 0, "one": 30, "constant": 40, "branching": 80, "a": 100, "random": 200}


@pytest.fixture(params=MAKERS)
def drafter(request: pytest.FixtureRequest) -> Drafter:
    return MAKERS[request.param]()


def context(name: str, limits: DraftLimits) -> DraftContext:
    return live_context(name, SEQUENCES[name], limits)


def live_context(name: str, token_ids: list[int], limits: DraftLimits) -> DraftContext:
    slots_L = FIRST_SLOTS[name] + np.arange(len(token_ids))
    return DraftContext(name, token_ids, limits, 0.0, 0, slots_L)


def begin_all(drafter: Drafter) -> None:
    for name, token_ids in SEQUENCES.items():
        drafter.begin(name, token_ids)


def alike(one: DraftTree, other: DraftTree) -> bool:
    """Equal but for rounding."""
    return (
        np.array_equal(one.token_ids_T, other.token_ids_T)
        and np.array_equal(one.parents_T, other.parents_T)
        and np.allclose(one.log_probs_T, other.log_probs_T, atol=1e-4)
    )


def equal(one: DraftTree, other: DraftTree) -> bool:
    return (
        np.array_equal(one.token_ids_T, other.token_ids_T)
        and np.array_equal(one.parents_T, other.parents_T)
        and np.array_equal(one.log_probs_T, other.log_probs_T)
    )


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_trees_are_valid_and_within_limits(drafter: Drafter, limits: DraftLimits) -> None:
    begin_all(drafter)
    proposed = drafter.propose([context(name, limits) for name in SEQUENCES])
    assert len(proposed) == len(SEQUENCES)
    for tree in proposed:
        tree_from_arrays(tree.token_ids_T, tree.parents_T, tree.log_probs_T)
        assert len(tree) <= limits.max_nodes
        assert max(tree.depths_T, default=0) <= limits.max_depth
        assert np.bincount(tree.parents_T + 1, minlength=1).max() <= limits.max_width
        assert (tree.token_ids_T >= 0).all()


@pytest.mark.parametrize("sizes", [(0, 0, 0), (0, 8, 4), (8, 0, 4), (8, 8, 0)])
def test_nothing_allowed_nothing_drafted(drafter: Drafter, sizes: tuple[int, int, int]) -> None:
    begin_all(drafter)
    trees = drafter.propose([context(name, DraftLimits(*sizes)) for name in SEQUENCES])
    assert [len(tree) for tree in trees] == [0] * len(SEQUENCES)


def test_no_context_no_tree(drafter: Drafter) -> None:
    assert drafter.propose([]) == []


def test_drafts_are_deterministic_and_independent_of_the_batch(drafter: Drafter) -> None:
    begin_all(drafter)
    contexts = [context(name, DraftLimits(8, 8, 4)) for name in SEQUENCES]
    together = drafter.propose(contexts)
    alone = [drafter.propose([one])[0] for one in reversed(contexts)][::-1]
    twin = MAKERS[drafter.name]()
    begin_all(twin)
    assert all(map(alike, together, alone))
    assert all(map(equal, together, twin.propose(contexts)))


def test_tokens_are_only_read(drafter: Drafter) -> None:
    before = {name: list(token_ids) for name, token_ids in SEQUENCES.items()}
    begin_all(drafter)
    drafter.propose([context(name, DraftLimits(8, 8, 4)) for name in SEQUENCES])
    assert before == SEQUENCES


def test_a_life_from_begin_to_release(drafter: Drafter) -> None:
    token_ids = [1, 2, 3, 4] * 3
    limits = DraftLimits(4, 4, 2)
    drafter.begin("a", token_ids)
    for _ in range(3):
        tree = drafter.propose([live_context("a", token_ids, limits)])[0].as_chain(2)
        committed = (*tree.token_ids_T.tolist(), 1)
        token_ids.extend(committed)
        drafter.observe([VerifyResult("a", tree, tuple(range(len(tree))), committed)])
    drafter.begin("a", token_ids[:5])
    drafter.release("a")
    drafter.release("a")
    drafter.begin("a", [9, 9])
    drafter.propose([live_context("a", [9, 9], limits)])


def test_release_of_unknown_ids(drafter: Drafter) -> None:
    drafter.release("never seen")


def test_late_results_of_released_sequences(drafter: Drafter) -> None:
    drafter.begin("a", [1, 2, 1])
    tree = drafter.propose([live_context("a", [1, 2, 1], DraftLimits(4, 4, 4))])[0]
    drafter.release("a")
    drafter.observe([VerifyResult("a", tree, (), (5,))])


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafters_go_by_their_names_and_are_tested(name: str) -> None:
    assert name in MAKERS
    module, _, class_name = DRAFTERS[name].partition(":")
    assert getattr(import_module(module), class_name).name == name


def test_unknown_drafter() -> None:
    with pytest.raises(ValueError, match=r"Drafter 'medusa' is unknown; choose .*ngram.*\."):
        create_drafter("medusa")


def test_options_reach_the_drafter() -> None:
    drafter = create_drafter("ngram", min_probability=0.999)
    drafter.begin("a", [1, 2, 1])
    assert not len(drafter.propose([DraftContext("a", [1, 2, 1], LIMITS[-1], 0.0, 0)])[0])


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        DRAFTERS["mine"] = "a:B"  # type: ignore[index]
