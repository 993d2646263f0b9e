"""What counting costs is told for what was run, and leaves the engine's own books alone."""

from __future__ import annotations

import tiny_models

from cast_bench.counting import measure, scrape_seconds


def test_a_small_share_of_a_known_number_of_steps() -> None:
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama))
        ledger = core.ledger
        one = measure(core, [(1, 2, 3), (4, 5)], "off", num_tokens=9)
    assert one["steps"] == 9
    assert 0 < one["counting"] < one["stepping"]
    assert one["share"] == one["counting"] / one["stepping"]
    assert core.ledger is ledger
    assert not ledger.copy().busy["background"]
    assert ledger.generation_tokens == 18
    assert scrape_seconds(core) > 0
