"""`erank` on a scripted subject: what it reads, what it says, and what it warns of."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest
from pydantic import ValidationError
from scripted_subject import ScriptedSubject, as_json, by_phase, evaluate

from cast_server.errors import ContextLengthError, RequestError
from cast_server.evaluators import effective_rank
from cast_server.evaluators.base import Unit
from cast_server.evaluators.erank import Erank
from cast_server.evaluators.erank_params import ErankParams
from cast_server.evaluators.subject import Capability, Initialisation

WORDS = [f"word{i}" for i in range(80)]
TEXTS = [" ".join(WORDS[i : i + 40]) for i in (0, 7, 20, 33)]
TWINS = {"mode": "random_init", "seeds": [4, 2], "std": 0.04}


def read(subject: ScriptedSubject, text: str, layer="last_normed"):
    return asyncio.run(subject.read(subject.tokenize(text), [layer]))


def codes(summary) -> set[str]:
    return {warning.code for warning in summary.warnings}


def test_items_are_what_the_measure_says() -> None:
    subject = ScriptedSubject()
    items, summary = evaluate(Erank(), {"layers": [0, 2, "last_normed"]}, TEXTS, subject)
    for index, (item, text) in enumerate(zip(items, TEXTS, strict=True)):
        assert (item.index, item.status, item.num_tokens) == (index, "ok", 41)
        for layer in item.layers:
            expected = effective_rank(read(subject, text, layer.layer).hidden[layer.layer])
            assert layer.erank == pytest.approx(expected, abs=1e-9)
            assert layer.erank == pytest.approx(math.exp(layer.entropy))
            assert layer.erank_max == 24
            assert layer.erank_normalised == pytest.approx(expected / 24)
        assert item.erank == item.layers[0].erank
        assert item.loss == pytest.approx(-float(read(subject, text).logprobs_P.mean()))
        assert (item.diff_erank, item.reduced_loss) == (None, None)
    assert (summary.num_ok, summary.num_undefined) == (4, 0)
    assert subject.twins == []


def test_both_algorithms_over_texts() -> None:
    items, summary = evaluate(Erank(), {}, TEXTS, ScriptedSubject())
    (layer,) = summary.layers
    geometric = math.exp(statistics.fmean(item.entropy for item in items))
    assert layer.algorithm_a.erank.value == pytest.approx(geometric)
    mean = statistics.fmean(item.erank for item in items)
    assert layer.algorithm_b.erank.value == pytest.approx(mean)
    for found in (layer.algorithm_a.erank, layer.algorithm_b.erank):
        assert found.low < found.value < found.high
    assert layer.erank.sd == pytest.approx(statistics.stdev(item.erank for item in items))
    assert (layer.algorithm_a.untrained, layer.algorithm_a.diff_erank) == ([], None)
    assert summary.loss.mean == pytest.approx(statistics.fmean(item.loss for item in items))


def test_beside_untrained_twins() -> None:
    subject = ScriptedSubject()
    items, summary = evaluate(Erank(), {"baseline": TWINS, "layers": [1, 3]}, TEXTS, subject)
    hows = [Initialisation(4, 0.04), Initialisation(2, 0.04)]
    assert subject.twins == [how for how in hows for _ in TEXTS]
    for item in items:
        for layer in item.layers:
            assert [side.seed for side in layer.untrained] == [4, 2]
            mean = statistics.fmean(side.erank for side in layer.untrained)
            assert layer.diff_erank == pytest.approx(mean - layer.erank)
    for place, layer in enumerate(summary.layers):
        by_seed = [
            math.exp(statistics.fmean(item.layers[place].untrained[k].entropy for item in items))
            for k in range(2)
        ]
        found = layer.algorithm_a
        assert found.untrained == pytest.approx(by_seed)
        assert found.untrained_sd == pytest.approx(statistics.stdev(by_seed))
        assert found.diff_erank.value == pytest.approx(
            statistics.fmean(by_seed) - found.erank.value
        )
        assert found.diff_erank.low < found.diff_erank.value < found.diff_erank.high
        by_mean = statistics.fmean(item.layers[place].diff_erank for item in items)
        assert layer.algorithm_b.diff_erank.value == pytest.approx(by_mean)
    assert summary.reduced_loss.count == len(TEXTS)


def test_reduced_loss_is_the_twins_less_the_models() -> None:
    subject = ScriptedSubject()
    (item,), _ = evaluate(Erank(), {"baseline": TWINS}, TEXTS[:1], subject)

    async def twin_loss(how: Initialisation) -> float:
        async with subject.untrained(how) as twin:
            return -float((await twin.read(twin.tokenize(TEXTS[0]))).logprobs_P.mean())

    twins = [asyncio.run(twin_loss(Initialisation(seed, 0.04))) for seed in (4, 2)]
    assert item.reduced_loss == pytest.approx(statistics.fmean(twins) - item.loss)


def test_twins_come_one_after_the_other() -> None:
    phases = list(by_phase(Erank().plan(ErankParams(baseline=TWINS), TEXTS)))
    assert [units[0].phase for units in phases] == ["trained", "untrained 4", "untrained 2"]
    assert all([unit.index for unit in units] == [0, 1, 2, 3] for units in phases)


def test_official_compat_is_one_twin_in_training_mode() -> None:
    subject = ScriptedSubject()
    params = {"baseline": {"mode": "official_compat", "seed": 5}}
    (item,), summary = evaluate(Erank(), params, TEXTS[:1], subject)
    assert subject.twins == [Initialisation(5, None, is_training=True)]
    assert item.diff_erank is not None
    assert "dropout_active" in codes(summary)


def test_entropies_can_be_provided() -> None:
    subject = ScriptedSubject()
    params = {"baseline": {"mode": "provided", "entropies": [3.0, 3.1, 3.2, 3.3]}}
    items, summary = evaluate(Erank(), params, TEXTS, subject)
    assert items[1].diff_erank == pytest.approx(math.exp(3.1) - items[1].erank)
    assert summary.layers[0].algorithm_a.untrained == pytest.approx([math.exp(3.15)])
    assert (subject.twins, items[0].reduced_loss) == ([], None)
    with pytest.raises(RequestError, match="4 numbers for 2 texts") as caught:
        evaluate(Erank(), params, TEXTS[:2], subject)
    assert caught.value.param == "params.baseline.entropies"


@pytest.mark.parametrize("text", ["", "one"])
def test_undefined_texts_are_counted_and_left_out(text) -> None:
    params = {"drop_first": 1, "baseline": TWINS}
    items, summary = evaluate(Erank(), params, [*TEXTS, text], ScriptedSubject())
    last = items[-1]
    assert (last.status, last.reason) == ("undefined", "fewer_than_2_tokens")
    assert (last.erank, last.diff_erank) == (None, None)
    assert (summary.num_ok, summary.num_undefined) == (4, 1)
    assert (summary.layers[0].num_ok, summary.layers[0].num_undefined) == (4, 1)
    alone, empty = evaluate(Erank(), params, [text], ScriptedSubject())
    assert (alone[0].status, empty.layers[0].algorithm_a) == ("undefined", None)
    assert empty.length_correlation is None


def test_tokens_that_are_all_the_same() -> None:
    (item,), _ = evaluate(Erank(), {"drop_first": 1, "layers": [0]}, ["a a a a"], ScriptedSubject())
    assert (item.status, item.reason) == ("undefined", "zero_variance")
    assert item.loss is not None


def test_a_tokenizer_without_a_first_token_of_its_own() -> None:
    class Bare(ScriptedSubject):
        def tokenize(self, text: str) -> list[int]:
            return super().tokenize(text)[1:]

    (item,), _ = evaluate(Erank(), {}, [""], Bare())
    assert (item.status, item.num_tokens, item.loss) == ("undefined", 0, None)


def test_a_text_that_is_too_long_fails_or_is_cut_and_says_so() -> None:
    subject = ScriptedSubject(max_length=20)
    params = ErankParams()
    with pytest.raises(ContextLengthError, match="41 tokens, this model takes 20") as caught:
        asyncio.run(Erank().run(Unit("trained", 2), params, TEXTS, subject, {}))
    assert caught.value.param == "input.2"
    (item,), _ = evaluate(Erank(), {"truncate": "right"}, TEXTS[:1], subject)
    assert (item.truncated, item.num_tokens) == (True, 20)
    expected = asyncio.run(subject.read(subject.tokenize(TEXTS[0])[:20], ["last_normed"]))
    assert item.erank == pytest.approx(effective_rank(expected.hidden["last_normed"]))
    items, _ = evaluate(Erank(), {}, ["few words here", TEXTS[0]], subject)
    assert [item.index for item in items] == [0]


def test_a_twin_that_failed_leaves_its_numbers_out() -> None:
    params = ErankParams(baseline=TWINS)
    subject = ScriptedSubject()
    unit = Unit("trained", 0)
    records = {unit: asyncio.run(Erank().run(unit, params, TEXTS, subject, {}))}
    (item,) = Erank().items(params, TEXTS, records)
    assert item.erank is not None
    assert item.diff_erank is None
    assert {side.reason for side in item.layers[0].untrained} == {"not_measured"}
    summary = Erank().summarise(params, [item])
    assert (summary.num_ok, summary.layers[0].num_undefined) == (1, 1)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="layer 4, this model has 0 to 3") as caught:
        asyncio.run(
            Erank().run(Unit("trained", 0), ErankParams(layers=[4]), TEXTS, ScriptedSubject(), {})
        )
    assert caught.value.param == "params.layers"


def test_no_texts() -> None:
    with pytest.raises(RequestError, match="at least one text"):
        Erank().plan(ErankParams(), [])


def test_short_and_unequal_texts_are_warned_of() -> None:
    _, summary = evaluate(Erank(), {}, TEXTS, ScriptedSubject())
    assert codes(summary) == set()
    texts = [" ".join(WORDS[:n]) for n in (4, 9, 20, 44)]
    _, summary = evaluate(Erank(), {}, texts, ScriptedSubject())
    assert codes(summary) == {"short_text", "unequal_lengths"}
    assert "3 of 4" in summary.warnings[0].message
    assert summary.length_correlation == pytest.approx(1)


def test_a_first_token_that_swallows_the_rank_is_warned_of_and_can_be_dropped() -> None:
    subject = ScriptedSubject()
    subject.sink = 400.0
    (item,), summary = evaluate(Erank(), {"layers": [2, "last_normed"]}, TEXTS[:1], subject)
    assert item.layers[0].norm_ratio > 100
    assert item.layers[0].erank < 3 < item.layers[1].erank
    assert codes(summary) == {"attention_sink"}
    assert "On layer 2 a token" in summary.warnings[0].message
    (item,), summary = evaluate(Erank(), {"layers": [2], "drop_first": 1}, TEXTS[:1], subject)
    assert item.erank > 3
    assert codes(summary) == set()


def test_a_configured_initializer_range_is_warned_of() -> None:
    _, summary = evaluate(
        Erank(), {"baseline": {"mode": "random_init", "seeds": [0]}}, TEXTS, ScriptedSubject()
    )
    assert codes(summary) == {"configured_std"}
    assert summary.layers[0].algorithm_a.untrained_sd is None


def test_twins_are_required_only_where_they_are_read() -> None:
    hidden = frozenset({Capability.HIDDEN_STATES})
    assert Erank().requires(ErankParams()) == hidden
    assert Erank().requires(ErankParams(baseline=TWINS)) == hidden | {Capability.UNTRAINED_TWIN}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": []}, "at least 1 item"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        ({"layers": ["first"]}, "last_normed"),
        ({"layers": [1, 1]}, "layers must differ"),
        ({"baseline": {"mode": "random_init", "seeds": []}}, "at least 1 item"),
        ({"baseline": {"mode": "random_init", "seeds": [3, 3]}}, "seeds must differ"),
        ({"baseline": {"mode": "random_init", "std": 0}}, "greater than 0"),
        ({"baseline": {"mode": "guess"}}, "does not match any of the expected tags"),
        ({"layers": [1, 2], "baseline": {"mode": "provided", "entropies": [1]}}, "one layer only"),
        ({"layer": 3}, "Extra inputs are not permitted"),
    ],
)
def test_parameters_that_make_no_sense(params, message) -> None:
    with pytest.raises(ValidationError, match=message):
        ErankParams.model_validate(params)


def test_the_same_again() -> None:
    params = {"baseline": TWINS}
    once = evaluate(Erank(), params, TEXTS, ScriptedSubject())
    again = evaluate(Erank(), params, TEXTS, ScriptedSubject())
    assert [as_json(item) for item in once[0]] == [as_json(item) for item in again[0]]
    assert as_json(once[1]) == as_json(again[1])
