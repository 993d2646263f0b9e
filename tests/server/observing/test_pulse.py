"""The line that a busy server writes every few seconds."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import tiny_models
from engine.driving import request, run

from cast_server.engine.request import SamplingParams
from cast_server.observing.pulse import beat, compare, is_busy

PROMPT = [7, 8, 9, 10] * 5
PARAMS = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)


def test_what_happened_in_between() -> None:
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=2))
        run(core, [request("a", PROMPT, PARAMS, "tree:6")])
        before = core.figures()
        last = run(core, [request("b", PROMPT, PARAMS, "tree:6")])["b"].last
        after = core.figures()
    one = compare(before, after, seconds=2.0)
    assert (one.generated, one.prompts, one.running, one.kv_usage) == (10.0, 10.0, 0, 0.0)
    assert one.cache_hits == last.num_cached_tokens / 20 > 0
    drafts = after.ledger.drafts - before.ledger.drafts
    accepted = last.speculation.num_accepted_draft_tokens
    assert one.acceptance_length == 1 + accepted / drafts
    assert one.step_seconds > 0
    assert one.predicted_seconds > 0
    assert str(replace(one, acceptance_length=2.5, step_seconds=0.02, predicted_seconds=0.03)) == (
        "10.0 tokens/s, prompts 10.0 tokens/s; running 0, waiting 0; KV cache 0.0%; "
        f"prefix hits {one.cache_hits:.1%}; acceptance length 2.50; "
        "steps 20.0 ms, predicted 30.0 ms"
    )
    assert is_busy(before, after)
    assert not is_busy(after, after)
    assert is_busy(after, replace(after, waiting=1))


def test_it_beats_only_while_there_is_work(caplog) -> None:
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=2))

    async def listen() -> None:
        task = asyncio.create_task(beat(core, 0.02))
        await asyncio.sleep(0.1)
        assert not caplog.records
        run(core, [request("a", PROMPT, PARAMS)])
        await asyncio.sleep(0.1)
        task.cancel()

    with caplog.at_level(logging.INFO, "cast_server"):
        asyncio.run(listen())
    (record,) = caplog.records
    assert "tokens/s" in record.getMessage()
