"""`representation_entropy`: how much of the space a text's hidden states fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from cast_server.evaluators.estimate import Estimate
from cast_server.evaluators.measures.coding_length import coding_length
from cast_server.evaluators.subject import Capability, Subject
from cast_server.evaluators.text_evaluator import TextEvaluator
from cast_server.evaluators.texts import LayerParams, TextItem, layer_of
from cast_server.openmp import aside


class RepresentationEntropyParams(LayerParams):
    """Up to which error vectors are told apart, and of which layer."""

    eps: float = Field(
        ge=1e-3,
        le=1e3,
        description="Error that is allowed, in units of a token's length. It changes the result "
        "as much as the model does, so there is no default.",
    )
    is_centred: bool = Field(False, description="Take the mean of the text's tokens out first.")


class RepresentationEntropyItem(TextItem):
    """One text."""

    num_dropped: int | None = Field(None, description="Tokens without direction.")
    representation_entropy: float | None = Field(
        None,
        description="ln det(I + D / eps^2 Sigma) / (D ln(1 + 1 / eps^2)): above 0, at most 1.",
    )
    coding_length: float | None = Field(
        None, description="(N + D) / 2 ln det(I + D / eps^2 Sigma), in nats."
    )
    matrix_entropy: float | None = Field(
        None, description="-tr Sigma ln Sigma of the same Sigma, in nats."
    )


class RepresentationEntropySummary(BaseModel):
    """Over all texts."""

    num_ok: int = Field(ge=0, description="Texts for which it is defined.")
    num_undefined: int = Field(ge=0, description="The others.")
    representation_entropy: Estimate = Field(description="Over texts.")
    matrix_entropy: Estimate = Field(description="Over texts, in nats.")


class RepresentationEntropy(TextEvaluator[RepresentationEntropyParams]):
    """One unit a text."""

    id: ClassVar[str] = "representation_entropy"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Representation entropy"
    description: ClassVar[str] = (
        "Coding length of a text's hidden states up to an error, as a part of the largest possible "
        "one (arXiv 2402.03471), and their matrix entropy."
    )
    params_type = RepresentationEntropyParams
    item_type = RepresentationEntropyItem
    summary_type = RepresentationEntropySummary
    metrics: ClassVar[tuple[str, ...]] = (
        "representation_entropy",
        "coding_length",
        "matrix_entropy",
    )

    def requires(self, params: RepresentationEntropyParams) -> frozenset[Capability]:  # noqa: ARG002
        return frozenset({Capability.HIDDEN_STATES})

    async def measure(
        self, token_ids: Sequence[int], params: RepresentationEntropyParams, subject: Subject
    ) -> Mapping[str, Any]:
        hidden_NE = await layer_of(token_ids, params, subject)
        found = await aside(coding_length, hidden_NE, params.eps, params.is_centred)
        return {
            "num_dropped": found.num_dropped,
            "representation_entropy": found.normalised,
            "coding_length": found.nats,
            "matrix_entropy": found.matrix_entropy,
        }

    def summarise(
        self,
        params: RepresentationEntropyParams,  # noqa: ARG002
        items: Sequence[BaseModel],
    ) -> BaseModel:
        found = [item for item in items if isinstance(item, RepresentationEntropyItem)]
        num_ok = sum(item.status == "ok" for item in found)
        return RepresentationEntropySummary(
            num_ok=num_ok,
            num_undefined=len(found) - num_ok,
            representation_entropy=Estimate.of(item.representation_entropy for item in found),
            matrix_entropy=Estimate.of(item.matrix_entropy for item in found),
        )
