"""What changes while the server runs is noticed, and the policy moves."""

from __future__ import annotations

import numpy as np
import pytest

from cast_bench.prompts import PROMPTS, chat_ids
from cast_profiler.cost import CostCurve, CostTable
from cast_profiler.drift import CorrectedCost
from cast_server.engine.request import Request, SamplingParams, SpeculationParams

NOTICED = 200  # steps


@pytest.fixture
def core(make_core):
    """The default model and its head, without the sources that cost no pass; planted costs, which
    the clock may correct: a pass of the head costs a tenth of the target's."""
    core = make_core(drafter="eagle", draft_sources="")
    cost = CostTable(CostCurve((1, 8, 64), (0.025, 0.03, 0.12)), CostCurve((1, 64), (0.0025, 0.01)))
    core.planner.cost = CorrectedCost(cost)
    core.planner.cost.saw_verify = lambda *_: None
    core.planner.cost.saw_level = core.planner.cost.saw_host = lambda *_: None
    return core


def levels(core, plain_model, num_steps: int) -> float:
    """Passes of the head a step, over the last half of so many steps of one request at a time."""
    _, tokenizer = plain_model
    meter = core.planner.meter
    meter.recent.clear()
    while len(meter.recent) < num_steps:
        if not core.has_work:
            number = meter.steps
            ids = chat_ids(tokenizer, PROMPTS[number % len(PROMPTS)])
            params = SamplingParams(max_tokens=96, temperature=0.0, ignore_eos=True)
            wish = SpeculationParams("cast")
            core.add(Request(f"{number}", tuple(ids), params, number, wish))
        core.step()
    last = list(meter.recent)[num_steps // 2 :]
    return sum(one.levels for one in last) / len(last)


def test_a_head_of_noise_is_left_alone_until_it_is_mended(core, plain_model) -> None:
    # What drafting has brought is judged by the clock, and the costs here are planted.
    core.planner._builder("cast").settle = lambda *_: None
    before = levels(core, plain_model, 120)
    assert before > 0.8
    head = core.drafter.head
    known = head.draft_token_ids
    head.draft_token_ids = np.random.default_rng(0).permutation(known)
    assert levels(core, plain_model, NOTICED) < before / 2
    assert levels(core, plain_model, NOTICED) < before / 8
    head.draft_token_ids = known
    assert levels(core, plain_model, NOTICED) > before / 2
