"""`acceptance`: how much of what a draft head guesses would be accepted, without drafting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from cast_server.evaluators.estimate import Estimate
from cast_server.evaluators.measures.expected_acceptance import (
    Overlaps,
    expected_length,
    pooled,
    summed,
)
from cast_server.evaluators.subject import Capability, Subject
from cast_server.evaluators.text_evaluator import TextEvaluator
from cast_server.evaluators.texts import TextItem, TextParams
from cast_server.openmp import aside


class AcceptanceParams(TextParams):
    """How far the head drafts."""

    depth: int = Field(5, ge=1, le=16, description="Guesses of a chain.")


class AcceptanceItem(TextItem):
    """One text."""

    alphas: list[float | None] = Field(
        [],
        description="Mean of sum of min(p, q) over positions, by depth; null where the text ends "
        "before a guess of that depth.",
    )
    counts: list[int] = Field([], description="Positions in these means.")
    expected_length: float | None = Field(
        None, description="Tokens a verification: 1 + sum over k of alpha_1 ... alpha_k."
    )
    expected_length_by_position: float | None = Field(
        None,
        description="Mean over positions of the same sum with each position's own overlaps. Above "
        "expected_length where easy guesses come together.",
    )
    num_whole: int = Field(0, ge=0, description="Positions with guesses of every depth.")


class AcceptanceSummary(BaseModel):
    """Over all texts."""

    num_ok: int = Field(ge=0, description="Texts that are long enough for every depth.")
    num_undefined: int = Field(ge=0, description="The others; their shorter guesses count.")
    alphas: list[float | None] = Field(description="By depth, over all positions of all texts.")
    counts: list[int] = Field(description="Positions in these means.")
    expected_length: float | None = Field(description="Tokens a verification, by these alphas.")
    expected_length_by_position: float | None = Field(
        description="Mean over all positions with guesses of every depth."
    )
    expected_length_of_texts: Estimate = Field(description="Over texts, each counting the same.")


class Acceptance(TextEvaluator[AcceptanceParams]):
    """One unit a text."""

    id: ClassVar[str] = "acceptance"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Expected acceptance of the draft head"
    description: ClassVar[str] = (
        "Overlap of the draft head's distributions with the model's at every position of a text, "
        "by depth, and the tokens that a verification would commit."
    )
    params_type = AcceptanceParams
    item_type = AcceptanceItem
    summary_type = AcceptanceSummary
    metrics: ClassVar[tuple[str, ...]] = ("expected_length", "expected_length_by_position")

    def requires(self, params: AcceptanceParams) -> frozenset[Capability]:  # noqa: ARG002
        return frozenset({Capability.DRAFT_HEAD})

    async def measure(
        self, token_ids: Sequence[int], params: AcceptanceParams, subject: Subject
    ) -> Mapping[str, Any]:
        overlaps_KN = await subject.overlaps(token_ids, params.depth)
        overlaps = await aside(summed, overlaps_KN)
        is_whole = all(overlaps.count)
        return {
            "reason": None if is_whole else "text_shorter_than_depth",
            "num_whole": overlaps.num_whole,
            **_figures(overlaps),
        }

    def summarise(self, params: AcceptanceParams, items: Sequence[BaseModel]) -> BaseModel:
        found = [item for item in items if isinstance(item, AcceptanceItem)]
        num_ok = sum(item.status == "ok" for item in found)
        return AcceptanceSummary(
            num_ok=num_ok,
            num_undefined=len(found) - num_ok,
            **_figures(pooled([_overlaps(item) for item in found if item.counts], params.depth)),
            expected_length_of_texts=Estimate.of(item.expected_length for item in found),
        )


def _overlaps(item: AcceptanceItem) -> Overlaps:
    """The sums that an item was made of."""
    return Overlaps(
        tuple(item.counts),
        tuple((alpha or 0.0) * n for alpha, n in zip(item.alphas, item.counts, strict=True)),
        item.num_whole,
        (item.expected_length_by_position or 0.0) * item.num_whole,
    )


def _figures(overlaps: Overlaps) -> dict[str, Any]:
    alphas = overlaps.alphas
    known = [alpha for alpha in alphas if alpha is not None]
    num_whole = overlaps.num_whole
    return {
        "alphas": alphas,
        "counts": list(overlaps.count),
        "expected_length": expected_length(known) if len(known) == len(alphas) else None,
        "expected_length_by_position": overlaps.length / num_whole if num_whole else None,
    }
