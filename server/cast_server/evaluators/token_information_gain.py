"""`token_information_gain`: what each token of a text adds to those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from cast_server.evaluators.estimate import Estimate
from cast_server.evaluators.measures.information_gain import information_gains
from cast_server.evaluators.subject import Capability, Subject
from cast_server.evaluators.text_evaluator import TextEvaluator
from cast_server.evaluators.texts import LayerParams, TextItem, layer_of
from cast_server.openmp import aside


class TokenInformationGainParams(LayerParams):
    """How much of a token counts as noise, and of which layer."""

    ridge: float = Field(
        ge=1e-6,
        le=1e6,
        description="Of the ridge regression of a token on those before, in units of a token's "
        "squared length. It sets the scale of all gains, so there is no default.",
    )


class TokenInformationGainItem(TextItem):
    """One text."""

    token_ids: list[int] | None = Field(None, description="The tokens that `gains` is about.")
    gains: list[float] | None = Field(
        None, description="ln(1 + r / ridge) of each token, in nats, in the order of the text."
    )
    total: float | None = Field(
        None, description="Sum: ln det(I + Z Z^T / ridge) of the text, in nats."
    )
    mean: float | None = Field(None, description="total over the number of tokens.")
    relative_mean: float | None = Field(
        None, description="mean over ln(1 + 1 / ridge), the most a token can add: 0 to 1."
    )


class TokenInformationGainSummary(BaseModel):
    """Over all texts."""

    num_ok: int = Field(ge=0, description="Texts for which it is defined.")
    num_undefined: int = Field(ge=0, description="The others.")
    mean: Estimate = Field(description="Of a text's mean gain, over texts, in nats.")
    relative_mean: Estimate = Field(description="Over texts.")


class TokenInformationGain(TextEvaluator[TokenInformationGainParams]):
    """One unit a text."""

    id: ClassVar[str] = "token_information_gain"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Information gain of tokens"
    description: ClassVar[str] = (
        "How many nats each token's hidden state adds to those before it: what ridge regression on "
        "them leaves (arXiv 2402.03471)."
    )
    params_type = TokenInformationGainParams
    item_type = TokenInformationGainItem
    summary_type = TokenInformationGainSummary
    metrics: ClassVar[tuple[str, ...]] = ("total", "mean", "relative_mean")

    def requires(self, params: TokenInformationGainParams) -> frozenset[Capability]:  # noqa: ARG002
        return frozenset({Capability.HIDDEN_STATES})

    async def measure(
        self, token_ids: Sequence[int], params: TokenInformationGainParams, subject: Subject
    ) -> Mapping[str, Any]:
        hidden_NE = await layer_of(token_ids, params, subject)
        gains_N = await aside(information_gains, hidden_NE, params.ridge)
        mean = float(gains_N.mean())
        return {
            "token_ids": list(token_ids[params.drop_first :]),
            "gains": gains_N.tolist(),
            "total": float(gains_N.sum()),
            "mean": mean,
            "relative_mean": mean / math.log1p(1 / params.ridge),
        }

    def summarise(
        self,
        params: TokenInformationGainParams,  # noqa: ARG002
        items: Sequence[BaseModel],
    ) -> BaseModel:
        found = [item for item in items if isinstance(item, TokenInformationGainItem)]
        num_ok = sum(item.status == "ok" for item in found)
        return TokenInformationGainSummary(
            num_ok=num_ok,
            num_undefined=len(found) - num_ok,
            mean=Estimate.of(item.mean for item in found),
            relative_mean=Estimate.of(item.relative_mean for item in found),
        )
