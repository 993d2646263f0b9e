"""What a client expects, in the engine: the same tokens, fewer steps, counts that add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
from engine.driving import Answer, run
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.draft_model import DraftModelDrafter
from cast_drafters.policy import POLICIES
from cast_drafters.tree import PREDICTED
from cast_profiler.drift import CorrectedCost
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.planner import Planner
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import RequestError

LENGTH = 60
PROMPT = (5, 6, 7, 8)
SAMPLED = SamplingParams(max_tokens=LENGTH, temperature=1.0, ignore_eos=True)
GREEDY = replace(SAMPLED, temperature=0.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


class Punctual(CorrectedCost):
    """Whatever takes how long: what was predicted is never corrected."""

    def saw_verify(self, *_) -> None: ...
    def saw_level(self, *_) -> None: ...
    def saw_host(self, *_) -> None: ...
    def saw_rest(self, *_) -> None: ...


class PunctualPlanner(Planner):
    """Every step takes just as long as was predicted, so that `cast` does the same every time."""

    def learn(self, plan, taken) -> None:
        times = {"verify_seconds": plan.verify_predicted, "seconds": plan.predicted}
        super().learn(plan, taken._replace(**times))


@pytest.fixture(scope="module")
def core():
    """At temperature 1 its text is noise, so that only what a client expects can be right."""
    return tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=3))


@pytest.fixture(autouse=True)
def _own_planner(core):
    """What other tests have taught `cast` is none of a test's business."""
    core.planner = PunctualPlanner(Punctual(core.planner.cost.base), core.planner.drafter)


@pytest.fixture(scope="module")
def plain(core):
    """The whole of what is chosen, by parameters and seed."""

    def answer(params: SamplingParams = SAMPLED, seed: int = 1) -> tuple[int, ...]:
        return tuple(ask(core, "off", params=params, seed=seed).tokens)

    return answer


def ask(core, policy, prediction=(), params=SAMPLED, seed=1, name="a", **wishes) -> Answer:
    speculation = SpeculationParams(policy, **wishes)
    one = Request(name, PROMPT, params, seed, speculation, prediction=tuple(prediction))
    return run(core, [one])[name]


def stats_of(answer: Answer):
    return answer.last.speculation


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("params", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_no_policy_and_no_text_changes_a_token(core, plain, policy, params) -> None:
    right = plain(params)
    edited = (*right[:20], 1, 2, 3, *right[23:30], *right[34:])
    for text in (right, edited, right[10:], tuple(reversed(right)), (3,) * 200):
        answer = ask(core, policy, text, params)
        assert tuple(answer.tokens) == right


@given(
    cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(0, 9)), max_size=4),
    policy=st.sampled_from(["cast", "chain:12", "tree:20", "cast-paper"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_no_edit_changes_a_token(core, plain, cuts, policy, seed) -> None:
    text = list(plain(seed=seed))
    for place, gone, come in cuts:
        text[place : place + gone] = [7] * come
    answer = ask(core, policy, text, seed=seed)
    assert tuple(answer.tokens) == plain(seed=seed)
    assert_counts_add_up(answer)


def assert_counts_add_up(answer: Answer) -> None:
    stats = stats_of(answer)
    assert sum(stats.drafted_by) == stats.num_draft_tokens
    assert sum(stats.accepted_by) <= stats.num_accepted_draft_tokens
    assert all(a <= d for a, d in zip(stats.accepted_by, stats.drafted_by, strict=True))
    assert sum(stats.accepted_by) <= len(answer.tokens)


def test_other_requests_of_the_step_are_not_disturbed(core, plain) -> None:
    wish = SpeculationParams("tree:12")
    requests = [
        Request(str(seed), PROMPT, SAMPLED, seed, wish, prediction=plain(seed=seed) * (seed % 2))
        for seed in range(6)
    ]
    for name, answer in run(core, requests).items():
        assert tuple(answer.tokens) == plain(seed=int(name))
        assert (answer.last.speculation.accepted_by[PREDICTED] > 20) == bool(int(name) % 2)


def test_a_right_text_is_accepted_many_tokens_a_step(core, plain) -> None:
    right = plain()
    stats = stats_of(ask(core, "cast", right))
    steps = stats.num_spec_steps
    assert steps < LENGTH / 6
    assert max(k for k, count in enumerate(stats.histogram) if count) >= 16
    # The first token is chosen with the prompt, and every step ends with a token of the target's.
    assert stats.accepted_by[PREDICTED] == LENGTH - 1 - steps
    assert stats_of(ask(core, "cast")).num_spec_steps > 0.8 * LENGTH


def test_an_edit_costs_a_few_steps(core, plain) -> None:
    right = plain()
    edited = (*right[:30], 1, 2, *right[33:])
    # `cast` pauses for some steps where it found nothing: here it is how fast the place is found.
    with_edit, without = (stats_of(ask(core, "chain:32", text)) for text in (edited, right))
    assert without.num_spec_steps < with_edit.num_spec_steps <= without.num_spec_steps + 6
    rejected = with_edit.drafted_by[PREDICTED] - with_edit.accepted_by[PREDICTED]
    assert 0 < rejected <= 4 * 32


def test_a_text_of_something_else_is_left_alone(core, plain) -> None:
    noise = tuple(token for token in range(300) if token not in plain())
    stats = stats_of(ask(core, "cast", noise))
    assert stats.accepted_by[PREDICTED] == 0
    assert stats.drafted_by[PREDICTED] < LENGTH / 2


def test_off_is_off(core, plain) -> None:
    for policy, most in (("off", None), ("cast", 0)):
        stats = stats_of(ask(core, policy, plain(), max_draft_tokens=most))
        assert (stats.num_draft_tokens, stats.drafted_by[PREDICTED]) == (0, 0)


def test_no_step_drafts_more_than_the_request_allows(core, plain) -> None:
    answer = ask(core, "cast", plain(), max_draft_tokens=5, per_step=True)
    stats = stats_of(answer)
    assert max(drafted for drafted, _ in stats.per_step) == 5 == stats.num_spec_tokens
    assert len(stats.per_step) == stats.num_spec_steps
    assert sum(drafted for drafted, _ in stats.per_step) == stats.num_draft_tokens
    assert sum(accepted for _, accepted in stats.per_step) == stats.num_accepted_draft_tokens
    assert stats_of(ask(core, "cast", plain())).per_step == ()


def test_what_a_stop_cuts_off_is_not_counted_as_accepted(core, plain) -> None:
    right = plain()
    place = next(i for i in range(40, LENGTH) if right[i] not in right[:i])
    params = replace(SAMPLED, stop_token_ids=(right[place],))
    answer = ask(core, "cast", right, params)
    assert tuple(answer.tokens) == right[: place + 1]
    assert stats_of(answer).accepted_by[PREDICTED] <= place
    assert_counts_add_up(answer)
    steps = stats_of(answer).num_spec_steps
    assert stats_of(answer).accepted_by[PREDICTED] >= place - steps


@pytest.mark.parametrize("levels", [1, 5])
def test_beside_a_draft_model_no_pass_is_made_where_the_text_is_trusted(plain, levels) -> None:
    core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=3))
    other = tiny_models.randomised(tiny_models.llama, seed=9)
    core.drafter = DraftModelDrafter(other, other.config.vocab_size, levels=levels)
    answer = ask(core, "cast", plain())
    assert tuple(answer.tokens) == plain()
    assert stats_of(answer).accepted_by[PREDICTED] > 40
    assert sum(step.levels for step in list(core.planner.meter.recent)[3:]) == 0


def test_nothing_of_a_text_outlives_its_request(core, plain) -> None:
    ask(core, "cast", plain())
    one = Request("gone", PROMPT, SAMPLED, 1, SpeculationParams("cast"), prediction=plain())
    core.add(one)
    for _ in range(2):
        core.step()
    assert core._guesses._followers
    core.abort("gone")
    assert not core._guesses._followers


def test_an_unknown_policy_is_refused_with_all_that_is_possible(core) -> None:
    request = Request("a", PROMPT, SAMPLED, 1, SpeculationParams("magic"))
    with pytest.raises(RequestError, match="'magic' is not possible; choose") as caught:
        AsyncEngine(core, "tiny", 8).check(request)
    assert all(kind in str(caught.value) for kind in POLICIES)
