"""The planner: every kind of policy in one batch, and books that add up."""

from __future__ import annotations

import math

import pytest
import tiny_models
from engine.driving import request, run

from cast_drafters.policy import POLICIES
from cast_profiler.cost import CostCurve, CostTable
from cast_profiler.drift import CorrectedCost
from cast_server.engine.request import Request, SamplingParams, SpeculationParams

PROMPTS = [[1, 2, 3, 4] * 6, [7, 8, 9] * 8, [5] * 20, [1, 2, 3, 9, 1, 2, 3, 7] * 3]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture
def core():
    return tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=2))


def plant(core, *seconds: float) -> None:
    """Costs of 1, 4 and 64 rows, which the clock does not correct."""
    table = CostTable(CostCurve((1, 4, 64), seconds), CostCurve((1,), (1e-6,)))
    cost = core.planner.cost = CorrectedCost(table)
    cost.saw_verify = lambda *_: None
    cost.saw_level = cost.saw_host = lambda *_: None
    core.planner._builder("cast").settle = lambda *_: None


def requests(policy: str, temperature: float = 0.0, length: int = 60) -> list[Request]:
    params = SamplingParams(max_tokens=length, temperature=temperature, ignore_eos=True)
    return [request(str(i), ids, params, policy, seed=i) for i, ids in enumerate(PROMPTS)]


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("kind", POLICIES)
def test_no_policy_changes_a_token(core, kind, temperature) -> None:
    plain = run(core, requests("off", temperature))
    for concurrency in (1, 4):
        answers = run(core, requests(kind, temperature), concurrency)
        assert {n: a.tokens for n, a in answers.items()} == {n: a.tokens for n, a in plain.items()}
        assert {a.last.speculation.policy.partition(":")[0] for a in answers.values()} == {kind}


def test_all_kinds_side_by_side(core) -> None:
    params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    alone = run(core, [request("off", PROMPTS[0], params)])["off"].tokens
    answers = run(core, [request(kind, PROMPTS[0], params, kind) for kind in POLICIES])
    assert all(answer.tokens == alone for answer in answers.values())
    drafted = {kind: a.last.speculation.num_draft_tokens for kind, a in answers.items()}
    assert drafted.pop("off") == 0
    assert min(drafted[kind] for kind in ("chain", "tree", "eagle2", "cast-paper")) > 0


def test_the_books_add_up(core) -> None:
    plant(core, 1.0, 1.0, 1.0)
    answers = run(core, requests("cast"), concurrency=1)
    meter = core.planner.meter
    stats = [answer.last.speculation for answer in answers.values()]
    assert meter.steps == sum(one.num_spec_steps for one in stats) == len(meter.recent)
    assert meter.tokens == sum(len(a.tokens) - 1 for a in answers.values())
    assert meter.accepted == sum(one.num_accepted_draft_tokens for one in stats) > 10
    assert meter.nodes == sum(one.num_draft_tokens for one in stats)
    assert meter.expected == pytest.approx(sum(one.num_expected_draft_tokens for one in stats))
    assert meter.predicted_seconds == pytest.approx(sum(one.predicted_seconds for one in stats))
    assert 0 < sum(one.seconds for one in stats) <= meter.seconds
    report = core.report()
    assert report.drafted_steps + report.plain_steps == meter.steps
    assert math.isfinite(report.calibration_error)
    assert set(report.step_errors) == {"0.5", "0.9"}


def test_rows_that_cost_nothing_are_used_and_ruinous_ones_are_not(core) -> None:
    plant(core, 1.0, 1.0, 1.0)
    free = run(core, requests("cast"))
    plant(core, 1.0, 1.0e3, 1.0e6)
    dear = run(core, requests("cast"), concurrency=1)
    assert sum(a.last.speculation.num_draft_tokens for a in free.values()) > 100
    assert sum(a.last.speculation.num_draft_tokens for a in dear.values()) == 0


def test_the_price_is_that_of_plain_decoding_at_least(core) -> None:
    plant(core, 1.0, 1.0, 1.0)
    core.planner._speed_ups = dict.fromkeys(range(8), 0.2)
    seen = []
    builder = core.planner._builder("cast")
    limits = builder.limits

    def watch(seats, costs):
        seen.append((len(seats), costs.price))
        return limits(seats, costs)

    builder.limits = watch
    run(core, requests("cast", length=8))
    assert seen
    assert all(price >= count * 0.9 for count, price in seen)


def test_reading_a_prompt_makes_no_draft_look_cheap(core) -> None:
    """Its step takes a hundred times as long; what drafts save is steps that only decode."""
    plant(core, 1.0, 1.0, 100.0)
    prices = []
    builder = core.planner._builder("cast")
    limits = builder.limits

    def watch(seats, costs):
        prices.append((costs.num_rows, costs.price))
        return limits(seats, costs)

    builder.limits = watch
    wish, *_ = requests("cast", length=30)
    core.add(wish)
    for _ in range(4):
        core.step()
    core.add(request("late", [3] * 64, wish.params, "cast", seed=9))
    core.step()
    mixed = [price for rows, price in prices if rows > 60]
    assert mixed
    assert all(1.5 < price < 3 for price in mixed)  # two sequences, a second a step


def test_a_request_that_weighs_more_gets_the_rows(core) -> None:
    """Rows for one draft only, and two requests whose drafts are equally good."""
    core.scheduler.limits = core.scheduler.limits.__class__(8, 48, 3, 256, True)
    plant(core, 1.0, 1.0, 1.0)
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    both = [
        Request(name, tuple(PROMPTS[0]), params, 0, SpeculationParams("cast", None, weight))
        for name, weight in (("light", 1.0), ("heavy", 50.0))
    ]
    answers = run(core, both)
    light, heavy = (answers[name].last.speculation for name in ("light", "heavy"))
    assert heavy.num_draft_tokens > 2 * light.num_draft_tokens
    assert answers["light"].tokens == answers["heavy"].tokens
