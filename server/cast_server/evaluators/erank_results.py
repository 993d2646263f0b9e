"""What `erank` answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from cast_server.evaluators.estimate import Estimate
from cast_server.evaluators.subject import Layer
from cast_server.evaluators.texts import Caution, TextItem


class UntrainedSide(BaseModel):
    """An untrained twin, or what was provided, on one layer of one text."""

    seed: int | None = Field(description="Of its weights; null if it was provided.")
    reason: str | None = Field(description="Why there are no numbers.")
    entropy: float | None = Field(description="Nats.")
    erank: float | None = Field(description="exp of the entropy.")


class LayerItem(BaseModel):
    """One layer of one text."""

    layer: Layer = Field(description="As in params.layers.")
    status: Literal["ok", "undefined"] = Field(description="As the item's.")
    reason: str | None = Field(
        description="fewer_than_2_tokens, zero_variance (all tokens are the same) or not_finite."
    )
    num_dropped: int | None = Field(
        None, description="Tokens that are the mean itself and have no direction."
    )
    entropy: float | None = Field(None, description="H of the normalised covariance, in nats.")
    erank: float | None = Field(None, description="exp H.")
    erank_max: int | None = Field(
        None, description="The largest eRank possible: min(tokens - 1, hidden size)."
    )
    erank_normalised: float | None = Field(None, description="eRank over the largest possible.")
    entropy_gap: float | None = Field(None, description="ln erank_max - H, in nats.")
    participation_ratio: float | None = Field(
        None, description="1 / sum of squared eigenvalues: another count of directions."
    )
    norm_ratio: float | None = Field(
        None, description="Longest token over the median one, before centring."
    )
    spectrum: list[float] = Field(
        [], description="The largest eigenvalues of the normalised covariance, falling."
    )
    untrained: list[UntrainedSide] = Field(description="One for each twin.")
    diff_erank: float | None = Field(
        None, description="eRank of the untrained twins (their mean) less that of the model."
    )


class ErankItem(TextItem):
    """One text. Its own numbers are those of the first layer asked for."""

    entropy: float | None = Field(description="As in layers.")
    erank: float | None = Field(description="As in layers.")
    erank_normalised: float | None = Field(description="As in layers.")
    participation_ratio: float | None = Field(description="As in layers.")
    diff_erank: float | None = Field(description="As in layers.")
    loss: float | None = Field(description="Mean of -ln p of the tokens after the first, in nats.")
    reduced_loss: float | None = Field(
        description="Loss of the untrained twins (their mean) less that of the model."
    )
    layers: list[LayerItem] = Field(description="In the order of params.layers.")


class Interval(BaseModel):
    """A number over texts."""

    value: float = Field(description="The number.")
    low: float | None = Field(
        description="Low end of its 95 % bootstrap interval over texts; null for a single text."
    )
    high: float | None = Field(description="Its high end.")


class AlgorithmSummary(BaseModel):
    """eRank over texts by one of the two algorithms of the paper."""

    erank: Interval = Field(description="Of the model.")
    untrained: list[float] = Field(description="Of each twin.")
    untrained_sd: float | None = Field(
        ge=0, description="Standard deviation of these; null for fewer than two."
    )
    diff_erank: Interval | None = Field(
        description="Mean of the twins less the model; null without a baseline."
    )


class LayerSummary(BaseModel):
    """One layer, over the texts for which everything asked for is defined."""

    layer: Layer = Field(description="As in params.layers.")
    num_ok: int = Field(ge=0, description="Texts in these numbers.")
    num_undefined: int = Field(ge=0, description="Texts left out.")
    erank: Estimate = Field(description="Over texts.")
    entropy: Estimate = Field(description="Over texts, in nats.")
    spectrum: list[float] = Field(
        description="Means over texts; a text with fewer eigenvalues counts 0 for the others."
    )
    algorithm_a: AlgorithmSummary | None = Field(
        description="By exp of the mean entropy, the default of the paper; null without texts."
    )
    algorithm_b: AlgorithmSummary | None = Field(description="By the mean of eRanks.")


class ErankSummary(BaseModel):
    """Over all texts."""

    num_ok: int = Field(ge=0, description="Items whose status is ok.")
    num_undefined: int = Field(ge=0, description="The others.")
    layers: list[LayerSummary] = Field(description="In the order of params.layers.")
    loss: Estimate = Field(description="Over texts, each counting the same, in nats.")
    reduced_loss: Estimate = Field(description="Over texts, in nats.")
    length_correlation: float | None = Field(
        ge=-1.000001,
        le=1.000001,
        description="Spearman's, of the number of tokens and eRank on the first layer; null for "
        "fewer than two texts or equal lengths.",
    )
    warnings: list[Caution] = Field(description="What to mind when reading these numbers.")
