"""The evaluators of hidden states beside `erank`, and the draft head's acceptance."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest
import torch
from pydantic import BaseModel, ValidationError
from scripted_subject import ScriptedSubject, evaluate

from cast_server.errors import ContextLengthError, RequestError
from cast_server.evaluators.acceptance import Acceptance
from cast_server.evaluators.measures.coding_length import coding_length
from cast_server.evaluators.measures.expected_acceptance import expected_length, summed
from cast_server.evaluators.measures.information_gain import information_gains
from cast_server.evaluators.mir import Mir
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.representation_entropy import RepresentationEntropy
from cast_server.evaluators.subject import Capability
from cast_server.evaluators.token_information_gain import TokenInformationGain

WORDS = [f"word{i}" for i in range(60)]
TEXTS = [" ".join(WORDS[i : i + 30]) for i in (0, 7, 20)]
REPEATING = [" ".join(WORDS[i] for i in (0, 1, 2, 3, 0, 1, 2, 3, i, 4, 2, 0)) for i in (5, 6, 7)]


def hidden(subject, text, layer="last_normed"):
    ids = subject.tokenize(text)
    return ids, asyncio.run(subject.read(ids, [layer])).hidden[layer]


@pytest.mark.parametrize("is_centred", [False, True])
def test_representation_entropy(is_centred) -> None:
    subject = ScriptedSubject()
    params = {"eps": 0.5, "layer": 1, "drop_first": 2, "is_centred": is_centred}
    items, summary = evaluate(RepresentationEntropy(), params, TEXTS, subject)
    for item, text in zip(items, TEXTS, strict=True):
        found = coding_length(hidden(subject, text, 1)[1][2:], 0.5, is_centred)
        assert item.representation_entropy == pytest.approx(found.normalised)
        assert item.coding_length == pytest.approx(found.nats)
        assert item.matrix_entropy == pytest.approx(found.matrix_entropy)
    mean = statistics.fmean(item.representation_entropy for item in items)
    assert summary.representation_entropy.mean == pytest.approx(mean)
    assert summary.num_ok == 3


def test_token_information_gain() -> None:
    subject = ScriptedSubject()
    items, summary = evaluate(
        TokenInformationGain(), {"ridge": 0.1, "drop_first": 1}, TEXTS, subject
    )
    for item, text in zip(items, TEXTS, strict=True):
        ids, rows = hidden(subject, text)
        assert item.token_ids == ids[1:]
        assert item.gains == pytest.approx(information_gains(rows[1:], 0.1).tolist())
        assert item.total == pytest.approx(sum(item.gains))
        assert item.relative_mean == pytest.approx(item.mean / math.log(11))
    assert summary.mean.count == 3


@pytest.mark.parametrize(
    ("evaluator", "params"),
    [
        (RepresentationEntropy(), {"eps": 1, "drop_first": 9}),
        (TokenInformationGain(), {"ridge": 1, "drop_first": 9}),
    ],
)
def test_texts_of_which_nothing_is_left(evaluator, params) -> None:
    items, summary = evaluate(evaluator, params, [TEXTS[0], "two words"], ScriptedSubject())
    assert [(item.status, item.reason) for item in items] == [
        ("ok", None),
        ("undefined", "no_tokens"),
    ]
    assert (summary.num_ok, summary.num_undefined) == (1, 1)


@pytest.mark.parametrize(
    ("evaluator", "params"),
    [(RepresentationEntropy(), {"eps": 1}), (TokenInformationGain(), {"ridge": 1})],
)
def test_layers_and_lengths_are_checked(evaluator, params) -> None:
    (unit,) = evaluator.plan(evaluator.params_type(**params), TEXTS[:1])
    with pytest.raises(RequestError, match=r"params.layer asks for layer 9"):
        asyncio.run(
            evaluator.run(
                unit, evaluator.params_type(**params, layer=9), TEXTS[:1], ScriptedSubject(), {}
            )
        )
    (item,), _ = evaluate(
        evaluator, params | {"truncate": "right"}, TEXTS[:1], ScriptedSubject(max_length=12)
    )
    assert (item.num_tokens, item.truncated) == (12, True)


@pytest.mark.parametrize("evaluator", [RepresentationEntropy(), TokenInformationGain()])
def test_what_sets_the_scale_must_be_said(evaluator) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        evaluator.params_type()


def test_mir_is_that_of_head_and_means() -> None:
    """By another way: means by a loop over all positions, entropies by singular values."""
    subject = ScriptedSubject()
    (item,), summary = evaluate(Mir(), {}, REPEATING, subject)
    states: dict[int, list[torch.Tensor]] = {}
    for text in REPEATING:
        ids, rows = hidden(subject, text)
        for token, row in zip(ids[1:], rows, strict=False):
            states.setdefault(token, []).append(row.double())
    states = {token: rows for token, rows in states.items() if len(rows) > 1}
    means = torch.stack([torch.stack(rows).mean(0) for rows in states.values()])
    head = subject._head_VE[list(states)].double()

    def kernel(rows):
        rows = torch.nn.functional.normalize(rows, dim=1)
        return rows @ rows.T

    def nats(matrix):
        p = torch.linalg.svdvals(matrix / len(matrix))
        return float(torch.special.entr(p).sum())

    ks = kernel(head), kernel(means - means.mean(0))
    h1, h2, joint = nats(ks[0]), nats(ks[1]), nats(ks[0] * ks[1])
    assert item.num_classes == item.num_classes_found == len(states)
    assert item.num_positions == sum(map(len, states.values()))
    assert item.mir == pytest.approx((h1 + h2 - joint) / min(h1, h2), abs=1e-6)
    assert item.hdr == pytest.approx(abs(h1 - h2) / max(h1, h2), abs=1e-6)
    assert (summary.mir, summary.hdr, summary.num_ok) == (item.mir, item.hdr, 1)
    assert summary.warnings == []


def test_mir_caps_its_classes_and_says_so() -> None:
    (item,), summary = evaluate(Mir(), {"max_classes": 3}, REPEATING, ScriptedSubject())
    assert item.num_classes == 3 < item.num_classes_found
    assert summary.warnings[0].code == "classes_capped"
    with pytest.raises(ValidationError, match="less than or equal to 2048"):
        Mir().params_type(max_classes=2049)


def test_mir_of_too_few_classes_is_undefined() -> None:
    subject = ScriptedSubject()
    (item,), summary = evaluate(Mir(), {}, ["a b a b c"], subject)
    assert (item.num_classes, item.num_classes_found) == (2, 2)
    assert (item.status, item.reason) == ("undefined", "fewer_than_3_classes")
    assert (item.mir, summary.mir, summary.num_undefined) == (None, None, 1)
    assert subject.readings == []


def test_mir_of_a_collapsed_head_is_undefined() -> None:
    subject = ScriptedSubject()
    subject._head_VE[:] = 1.0
    (item,), _ = evaluate(Mir(), {}, REPEATING, subject)
    assert (item.status, item.reason) == ("undefined", "zero_entropy")


def test_mir_at_neural_collapse() -> None:
    class Collapsed(ScriptedSubject):
        """Hidden states are the head's row of the next token, and these are a simplex."""

        async def read(self, token_ids, layers=()):
            reading = await super().read(token_ids, layers)
            rows = self._head_VE[[*token_ids[1:], 0]] + 5
            return type(reading)({"last_normed": rows}, reading.logprobs_P)

    subject = Collapsed()
    ids = sorted({token for text in REPEATING for token in subject.tokenize(text)[1:]})
    text = " ".join(word for word in WORDS[:4] for _ in range(2))
    classes = sorted(set(subject.tokenize(text)[1:]))
    assert len(classes) == 4 <= len(ids)
    subject._head_VE[classes] = (torch.eye(4) - 0.25) @ torch.eye(4, 24)
    (item,), _ = evaluate(Mir(), {}, [text], subject)
    assert item.mir == pytest.approx(item.mir_at_collapse, abs=1e-6)
    assert item.hdr == pytest.approx(0, abs=1e-6)


def test_mir_needs_texts_that_fit() -> None:
    evaluator, subject = Mir(), ScriptedSubject(max_length=9)
    (unit,) = evaluator.plan(evaluator.params_type(), REPEATING)
    with pytest.raises(ContextLengthError, match=r"input.0 has 13 tokens"):
        asyncio.run(evaluator.run(unit, evaluator.params_type(), REPEATING, subject, {}))
    (item,), _ = evaluate(evaluator, {"truncate": "right"}, REPEATING, subject)
    assert item.num_truncated == 3


def test_acceptance_by_depth() -> None:
    subject = ScriptedSubject()
    texts = [*TEXTS, "only four words here"]
    items, summary = evaluate(Acceptance(), {"depth": 3}, texts, subject)
    tables = [asyncio.run(subject.overlaps(subject.tokenize(text), 3)) for text in texts]
    for item, table in zip(items, tables, strict=True):
        means = table.nanmean(1).tolist()
        assert item.alphas == pytest.approx(means)
        assert item.expected_length == pytest.approx(expected_length(means))
        whole = table[:, ~table.isnan().any(0)]
        by_position = statistics.fmean(expected_length(one) for one in whole.T.tolist())
        assert item.expected_length_by_position == pytest.approx(by_position)
    together = summed(torch.cat(tables, dim=1))
    assert summary.counts == list(together.count)
    assert summary.alphas == pytest.approx(together.alphas)
    assert summary.expected_length == pytest.approx(expected_length(together.alphas))
    by_position = together.length / together.num_whole
    assert summary.expected_length_by_position == pytest.approx(by_position)
    assert summary.expected_length_of_texts.count == 4


def test_acceptance_of_texts_that_end_before_the_guess() -> None:
    items, summary = evaluate(Acceptance(), {"depth": 4}, [TEXTS[0], "a b", ""], ScriptedSubject())
    assert [item.reason for item in items] == [None, *["text_shorter_than_depth"] * 2]
    assert [alpha is None for alpha in items[1].alphas] == [False, False, True, True]
    assert items[1].expected_length is None
    assert (summary.num_ok, summary.num_undefined) == (1, 2)
    assert summary.counts[0] == items[0].counts[0] + 2
    _, nothing = evaluate(Acceptance(), {"depth": 2}, [""], ScriptedSubject())
    assert (nothing.alphas, nothing.expected_length) == ([None, None], None)


def test_what_each_needs() -> None:
    needs = {"eps": 1.0, "ridge": 1.0}
    for name, evaluator in EVALUATORS.items():
        fields = evaluator.params_type.model_fields
        params = {key: value for key, value in needs.items() if key in fields}
        required = evaluator.requires(evaluator.params_type(**params))
        able = {Capability.DRAFT_HEAD, Capability.HIDDEN_STATES, Capability.GENERATION}
        assert required & able, name


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_explains_itself(name) -> None:
    evaluator = EVALUATORS[name]
    assert evaluator.id == name
    assert evaluator.version
    assert evaluator.title
    assert set(evaluator.metrics) <= set(evaluator.item_type.model_fields)
    for model in (evaluator.params_type, evaluator.item_type, evaluator.summary_type):
        assert issubclass(model, BaseModel)
        schema = model.model_json_schema()
        for described in (schema, *schema.get("$defs", {}).values()):
            for field, value in described.get("properties", {}).items():
                is_tag = "const" in value
                assert "description" in value or is_tag, f"{model.__name__}.{field}"
