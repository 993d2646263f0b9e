"""`erank`: in how many directions a text's tokens spread, and what training did to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from cast_server.errors import RequestError
from cast_server.evaluators.base import Evaluator, Record, Undefined, Unit
from cast_server.evaluators.erank_params import ErankParams, Provided
from cast_server.evaluators.erank_results import ErankItem, ErankSummary, LayerItem, UntrainedSide
from cast_server.evaluators.erank_summary import mean_or_none, summary_of
from cast_server.evaluators.measures.effective_rank import measure, norm_ratio
from cast_server.evaluators.subject import Capability, Layer, Reading, Subject
from cast_server.evaluators.texts import Tokens, check_layers, require_texts, tokens_of
from cast_server.openmp import aside

_TRAINED: Final = "trained"


class Erank(Evaluator[ErankParams]):
    """A phase for the model and one for each twin, so that no two twins are needed at a time."""

    id: ClassVar[str] = "erank"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Effective rank and Diff-eRank"
    description: ClassVar[str] = (
        "In how many directions the hidden states of a text's tokens spread, and, beside untrained "
        "twins, how much fewer that is than before training (arXiv 2401.17139). Also the loss."
    )
    params_type = ErankParams
    item_type = ErankItem
    summary_type = ErankSummary
    metrics: ClassVar[tuple[str, ...]] = (
        "erank",
        "entropy",
        "erank_normalised",
        "participation_ratio",
        "diff_erank",
        "loss",
        "reduced_loss",
    )

    def requires(self, params: ErankParams) -> frozenset[Capability]:
        twin = {Capability.UNTRAINED_TWIN} if params.twins else set()
        return frozenset({Capability.HIDDEN_STATES, *twin})

    def plan(self, params: ErankParams, inputs: Sequence[str]) -> list[Unit]:
        require_texts(inputs)
        if isinstance(params.baseline, Provided) and len(params.baseline.entropies) != len(inputs):
            raise RequestError(
                f"params.baseline.entropies has {len(params.baseline.entropies)} numbers for "
                f"{len(inputs)} texts: one a text is needed.",
                "params.baseline.entropies",
            )
        return [Unit(phase, index) for phase in _phases(params) for index in range(len(inputs))]

    async def run(
        self,
        unit: Unit,
        params: ErankParams,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],  # noqa: ARG002
    ) -> Record:
        check_layers(params.layers, subject, "params.layers")
        tokens = tokens_of(inputs, unit.index, params, subject)
        if unit.phase == _TRAINED:
            return await _read(tokens, params, subject)
        how = params.twins[_phases(params).index(unit.phase) - 1]
        async with subject.untrained(how) as twin:
            return {"seed": how.seed} | await _read(tokens, params, twin)

    def items(
        self, params: ErankParams, inputs: Sequence[str], records: Mapping[Unit, Record]
    ) -> list[BaseModel]:
        phases = _phases(params)
        return [
            _item(params, index, [records.get(Unit(phase, index)) for phase in phases])
            for index in range(len(inputs))
            if Unit(_TRAINED, index) in records
        ]

    def summarise(self, params: ErankParams, items: Sequence[BaseModel]) -> BaseModel:
        return summary_of(params, [item for item in items if isinstance(item, ErankItem)])


def _phases(params: ErankParams) -> list[str]:
    return [_TRAINED, *(f"untrained {how.seed}" for how in params.twins)]


async def _read(tokens: Tokens, params: ErankParams, subject: Subject) -> dict[str, Any]:
    common = {"num_tokens": len(tokens.ids), "truncated": tokens.is_truncated}
    if not tokens.ids:
        nothing = [{"layer": layer, "reason": "fewer_than_2_tokens"} for layer in params.layers]
        return common | {"loss": None, "layers": nothing}
    reading = await subject.read(tokens.ids, params.layers)
    return common | await aside(_measured, reading, params)


def _measured(reading: Reading, params: ErankParams) -> dict[str, Any]:
    """The heavy part, for a thread of its own."""
    logprobs_P = reading.logprobs_P.double()
    loss = -float(logprobs_P.mean()) if len(logprobs_P) else None
    layers = [_layer(layer, reading, params) for layer in params.layers]
    return {"loss": loss, "layers": layers}


def _layer(layer: Layer, reading: Reading, params: ErankParams) -> dict[str, Any]:
    hidden_NE = reading.hidden[layer][params.drop_first :]
    try:
        found = measure(hidden_NE)
        return {
            "layer": layer,
            "reason": None,
            "num_dropped": found.num_dropped,
            "entropy": found.entropy,
            "erank": found.erank,
            "erank_max": found.largest,
            "erank_normalised": found.normalised,
            "entropy_gap": found.entropy_gap,
            "participation_ratio": found.participation_ratio,
            "norm_ratio": norm_ratio(hidden_NE),
            "spectrum": found.eigenvalues[: params.spectrum],
        }
    except Undefined as why:
        return {"layer": layer, "reason": why.reason}


def _item(params: ErankParams, index: int, sides: Sequence[Record | None]) -> ErankItem:
    """sides: the model's record and those of the twins, None where one is missing."""
    trained, *twins = sides
    assert trained is not None
    layers = [
        _layer_item(found, list(_untrained(params, index, place, twins)))
        for place, found in enumerate(trained["layers"])
    ]
    first, loss = layers[0], trained["loss"]
    untrained_loss = mean_or_none([None if twin is None else twin["loss"] for twin in twins])
    return ErankItem(
        index=index,
        status=first.status,
        reason=first.reason,
        num_tokens=trained["num_tokens"],
        truncated=trained["truncated"],
        entropy=first.entropy,
        erank=first.erank,
        erank_normalised=first.erank_normalised,
        participation_ratio=first.participation_ratio,
        diff_erank=first.diff_erank,
        loss=loss,
        reduced_loss=None if None in (untrained_loss, loss) else untrained_loss - loss,
        layers=layers,
    )


def _layer_item(found: Mapping[str, Any], untrained: list[UntrainedSide]) -> LayerItem:
    mean = mean_or_none([side.erank for side in untrained])
    erank = found.get("erank")
    return LayerItem(
        **found,
        status="ok" if erank is not None else "undefined",
        untrained=untrained,
        diff_erank=None if mean is None or erank is None else mean - erank,
    )


def _untrained(
    params: ErankParams, index: int, place: int, twins: Sequence[Record | None]
) -> Iterator[UntrainedSide]:
    """The other side of one layer, the `place`th that was asked for."""
    if isinstance(params.baseline, Provided):
        entropy = params.baseline.entropies[index]
        yield UntrainedSide(seed=None, reason=None, entropy=entropy, erank=math.exp(entropy))
    for how, twin in zip(params.twins, twins, strict=True):
        found = {"reason": "not_measured"} if twin is None else twin["layers"][place]
        yield UntrainedSide(
            seed=how.seed,
            reason=found["reason"],
            entropy=found.get("entropy"),
            erank=found.get("erank"),
        )
