"""What a prediction is worth, measured: edits that are edits, sides that are told apart."""

from __future__ import annotations

from argparse import Namespace

import pytest
import tiny_models

from cast_bench.prediction import SIDES, Bench, Cell, edited, predictions, report, run_round

WORDS = " ".join(f"w{number}" for number in range(40))


@pytest.mark.parametrize("num_edits", [0, 1, 4, 9])
def test_edits_are_few_and_far_between(num_edits) -> None:
    before, after = WORDS.split(" "), edited(WORDS, num_edits, seed=1).split(" ")
    assert (before == after) == (num_edits == 0)
    assert len(set(before) - set(after)) <= 2 * num_edits
    assert abs(len(after) - len(before)) <= 2 * num_edits
    assert edited(WORDS, num_edits, seed=1).split(" ") == after


def test_every_side_is_run_and_told_apart() -> None:
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=3))
        bench = Bench(core, Namespace(num_tokens=40, policy="tree:8"))
        prompts = [[5, 6, 7], [9, 8, 7]]
        answers = [bench.answer(one, "off", (), None) for one in prompts]
        expected = predictions(core.tokenizer, answers, num_edits=1)
        for one, answer, other in zip(expected, answers, answers[::-1], strict=True):
            # what the tokenizer makes of such noise is not what it was made of
            one |= {"same": answer, "other": other}
        cells = run_round(bench, prompts, expected, answers, number=1)
    assert [one.side for one in cells] == ["none", "same", "edited", "other", "off"]
    by_side = {one.side: one for one in cells}
    assert all(one.different == 0 for one in cells)
    assert all(one.tokens == sum(map(len, answers)) - 2 for one in cells)
    assert by_side["off"].drafted == by_side["none"].predicted_drafted == 0
    assert by_side["same"].predicted_accepted > by_side["none"].accepted / 2
    assert by_side["same"].steps < by_side["off"].steps


def test_the_report_compares_with_no_prediction() -> None:
    cells = [
        Cell(number, side, 100 * (2 if side == "same" else 1), 4.0 + number, 50)
        for number in range(3)
        for side in SIDES
    ]
    rows = {row.split("|")[1].strip(" `"): row for row in report(cells, 2).splitlines()[2:]}
    assert "| 2.00 [2.00, 2.00] | 4.00 |" in rows["same"]
    assert "| 1.00 [1.00, 1.00] | 2.00 |" in rows["other"]
    assert "40.0 (33.3 to 50.0)" in rows["same"]
