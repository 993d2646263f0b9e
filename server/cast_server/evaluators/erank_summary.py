"""`erank` over many texts: both algorithms, their intervals, and what to mind."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.erank_params import ErankParams, OfficialCompat, RandomInit
from cast_server.evaluators.erank_results import (
    AlgorithmSummary,
    ErankItem,
    ErankSummary,
    Interval,
    LayerItem,
    LayerSummary,
)
from cast_server.evaluators.estimate import Estimate
from cast_server.evaluators.measures.diff_erank import (
    Aggregate,
    Algorithm,
    diff_erank,
    erank_over_texts,
)
from cast_server.evaluators.measures.intervals import standard_deviation
from cast_server.evaluators.measures.rank_correlation import rank_correlation
from cast_server.evaluators.texts import Caution

_SHORT: Final = 32  # tokens: eRank of fewer is below 31, whatever the model
_UNEVEN: Final = 2.0  # times the shortest text
_SINK: Final = 10.0  # times the median token


def mean_or_none(numbers: Sequence[float | None]) -> float | None:
    """None if there are none, or if one of them is None."""
    found = [number for number in numbers if number is not None]
    return statistics.fmean(found) if found and len(found) == len(numbers) else None


def summary_of(params: ErankParams, items: Sequence[ErankItem]) -> ErankSummary:
    """Of finished items."""
    num_ok = sum(item.status == "ok" for item in items)
    seed = params.bootstrap_seed
    return ErankSummary(
        num_ok=num_ok,
        num_undefined=len(items) - num_ok,
        layers=[
            _layer_summary(params, [item.layers[place] for item in items], place)
            for place in range(len(params.layers))
        ],
        loss=Estimate.of([item.loss for item in items], seed),
        reduced_loss=Estimate.of([item.reduced_loss for item in items], seed),
        length_correlation=_length_correlation(items),
        warnings=list(_warnings(params, items)),
    )


def _layer_summary(params: ErankParams, found: Sequence[LayerItem], place: int) -> LayerSummary:
    has_baseline = params.baseline.mode != "none"
    whole = [
        layer
        for layer in found
        if layer.status == "ok" and (not has_baseline or layer.diff_erank is not None)
    ]
    seed = params.bootstrap_seed
    return LayerSummary(
        layer=params.layers[place],
        num_ok=len(whole),
        num_undefined=len(found) - len(whole),
        erank=Estimate.of([layer.erank for layer in whole], seed),
        entropy=Estimate.of([layer.entropy for layer in whole], seed),
        spectrum=_mean_spectrum([layer.spectrum for layer in whole]),
        algorithm_a=_algorithm("a", whole, seed),
        algorithm_b=_algorithm("b", whole, seed),
    )


def _mean_spectrum(spectra: Sequence[Sequence[float]]) -> list[float]:
    ranks = zip_longest(*spectra, fillvalue=0.0)
    return [sum(shares) / len(spectra) for shares in ranks]


def _algorithm(
    algorithm: Algorithm, layers: Sequence[LayerItem], seed: int
) -> AlgorithmSummary | None:
    if not layers:
        return None
    trained = [layer.entropy for layer in layers if layer.entropy is not None]
    twins = zip(*([side.entropy for side in layer.untrained] for layer in layers), strict=True)
    untrained = [[entropy for entropy in twin if entropy is not None] for twin in twins]
    each = [erank_over_texts(entropies, algorithm, seed).value for entropies in untrained]
    return AlgorithmSummary(
        erank=_interval(erank_over_texts(trained, algorithm, seed)),
        untrained=each,
        untrained_sd=standard_deviation(each) if len(each) > 1 else None,
        diff_erank=_interval(diff_erank(untrained, trained, algorithm, seed)) if each else None,
    )


def _interval(found: Aggregate) -> Interval:
    ends = found.interval
    return Interval(
        value=found.value,
        low=None if ends is None else ends.low,
        high=None if ends is None else ends.high,
    )


def _length_correlation(items: Sequence[ErankItem]) -> float | None:
    pairs = [(item.num_tokens, item.erank) for item in items if item.erank is not None]
    try:
        return rank_correlation([n for n, _ in pairs], [erank for _, erank in pairs])
    except Undefined:
        return None


def _warnings(params: ErankParams, items: Sequence[ErankItem]) -> Iterator[Caution]:
    lengths = [item.num_tokens - params.drop_first for item in items if item.status == "ok"]
    if short := sum(length < _SHORT for length in lengths):
        yield Caution(
            code="short_text",
            message=f"{short} of {len(lengths)} texts have fewer than {_SHORT} tokens: eRank is at "
            "most one less than the number of tokens, and there it says more of the length than "
            "of the model.",
        )
    if lengths and max(lengths) > _UNEVEN * min(lengths):
        yield Caution(
            code="unequal_lengths",
            message=f"Texts have {min(lengths)} to {max(lengths)} tokens, and eRank grows with "
            "length: compare models on the same texts only, never these texts with others.",
        )
    yield from _sinks(params, items)
    if isinstance(params.baseline, RandomInit) and params.baseline.std is None:
        yield Caution(
            code="configured_std",
            message="The untrained twins have the initializer_range of the model's configuration, "
            "which converted files often lack or have wrong; it decides the sign of Diff-eRank.",
        )
    if isinstance(params.baseline, OfficialCompat):
        yield Caution(
            code="dropout_active",
            message="As in the official code, dropout was active in the untrained twin: part of "
            "its eRank is that of the dropout.",
        )


def _sinks(params: ErankParams, items: Sequence[ErankItem]) -> Iterator[Caution]:
    layers = (layer for item in items for layer in item.layers)
    found = {layer.layer for layer in layers if (layer.norm_ratio or 0) > _SINK}
    if found:
        named = ", ".join(str(layer) for layer in params.layers if layer in found)
        yield Caution(
            code="attention_sink",
            message=f"On layer {named} a token is more than {_SINK:g} times as long as the median "
            "one; such a token alone can take eRank down to 1. Set params.drop_first if it is the "
            "first.",
        )
