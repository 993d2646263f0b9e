"""`mir`: do hidden states before a token point where the output head has that token?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from cast_server.evaluators.base import Evaluator, Record, Undefined, Unit
from cast_server.evaluators.measures.class_means import ClassMeans, next_token_classes
from cast_server.evaluators.measures.matrix_information import (
    gram,
    mir_at_collapse,
    shared_information,
)
from cast_server.evaluators.subject import Capability, Subject
from cast_server.evaluators.texts import Caution, TextParams, require_texts, tokens_of
from cast_server.openmp import aside


class MirParams(TextParams):
    """Which tokens are classes."""

    max_classes: int = Field(
        2048,
        ge=3,
        le=2048,
        description="At most this many, the commonest ones; time grows with the third power.",
    )
    min_count: int = Field(
        2, ge=2, le=10_000, description="Positions that a class needs, over all texts."
    )


class MirItem(BaseModel):
    """All texts together: means of classes are taken over all of them."""

    index: int = Field(0, description="Always 0.")
    status: Literal["ok", "undefined"] = Field(description="As with other evaluators.")
    reason: str | None = Field(
        description="fewer_than_3_classes, zero_entropy, zero_norm or not_finite."
    )
    num_texts: int = Field(ge=0, description="Texts read.")
    num_truncated: int = Field(ge=0, description="Of these, cut at their end.")
    num_positions: int = Field(ge=0, description="Positions whose next token is a class.")
    num_classes: int = Field(ge=0, description="C: next tokens that were measured.")
    num_classes_found: int = Field(ge=0, description="Next tokens with at least min_count.")
    mir: float | None = Field(None, description="MI / min(H1, H2): 0 to 1.")
    hdr: float | None = Field(None, description="|H1 - H2| / max(H1, H2): 0 to 1.")
    mutual_information: float | None = Field(None, description="H1 + H2 - joint, in nats.")
    head_entropy: float | None = Field(
        None, description="H1, of the output head's rows of the classes, in nats."
    )
    means_entropy: float | None = Field(
        None, description="H2, of the centred means of hidden states, in nats."
    )
    joint_entropy: float | None = Field(None, description="Of the kernels' product, in nats.")
    mir_at_collapse: float | None = Field(
        None,
        description="MIR of a classifier of C classes under neural collapse, where HDR is 0; a "
        "reference, for a language model cannot and need not get there.",
    )


class MirSummary(BaseModel):
    """The same as the item, and what to mind."""

    num_ok: int = Field(ge=0, le=1, description="1 if it is defined.")
    num_undefined: int = Field(ge=0, le=1, description="1 if it is not.")
    mir: float | None = Field(description="As in the item.")
    hdr: float | None = Field(description="As in the item.")
    num_classes: int = Field(ge=0, description="As in the item.")
    warnings: list[Caution] = Field(description="What to mind when reading these numbers.")


class Mir(Evaluator[MirParams]):
    """One unit in all, for hidden states of all texts make one set of class means, and these are
    too large for a journal."""

    id: ClassVar[str] = "mir"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Matrix mutual information ratio"
    description: ClassVar[str] = (
        "Kernels of the output head's rows and of the centred mean hidden states before each "
        "token: what they share (MIR) and how far their entropies are apart (HDR) (arXiv "
        "2406.03999). Not the Modality Integration Rate."
    )
    params_type = MirParams
    item_type = MirItem
    summary_type = MirSummary
    metrics: ClassVar[tuple[str, ...]] = ("mir", "hdr")

    def requires(self, params: MirParams) -> frozenset[Capability]:  # noqa: ARG002
        return frozenset({Capability.HIDDEN_STATES, Capability.UNEMBEDDING})

    def plan(self, params: MirParams, inputs: Sequence[str]) -> list[Unit]:  # noqa: ARG002
        require_texts(inputs)
        return [Unit("read", 0)]

    async def run(
        self,
        unit: Unit,  # noqa: ARG002
        params: MirParams,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],  # noqa: ARG002
    ) -> Record:
        texts = []
        for index in range(len(inputs)):
            texts.append(tokens_of(inputs, index, params, subject))
            await asyncio.sleep(0)  # all texts at once would keep other requests waiting
        ids = [text.ids for text in texts]
        classes, num_found = await aside(
            next_token_classes, ids, params.max_classes, params.min_count
        )
        counts = {
            "num_texts": len(texts),
            "num_truncated": sum(text.is_truncated for text in texts),
            "num_classes": len(classes),
            "num_classes_found": num_found,
        }
        if len(classes) < 3:  # centred means of two are opposite: one direction, no entropy
            return counts | {"num_positions": 0, "reason": "fewer_than_3_classes"}
        means = await _class_means(ids, classes, subject)
        head_CE = await subject.unembedding(classes)
        measured = await aside(_measured, head_CE, means.centred())
        return counts | {"num_positions": means.num_positions} | measured

    def items(
        self,
        params: MirParams,  # noqa: ARG002
        inputs: Sequence[str],  # noqa: ARG002
        records: Mapping[Unit, Record],
    ) -> list[BaseModel]:
        return [
            MirItem(status="undefined" if record["reason"] else "ok", **record)
            for record in records.values()
        ]

    def summarise(self, params: MirParams, items: Sequence[BaseModel]) -> BaseModel:  # noqa: ARG002
        found = next((item for item in items if isinstance(item, MirItem)), None)
        is_ok = found is not None and found.status == "ok"
        return MirSummary(
            num_ok=int(is_ok),
            num_undefined=int(found is not None and not is_ok),
            mir=found and found.mir,
            hdr=found and found.hdr,
            num_classes=found.num_classes if found else 0,
            warnings=_warnings(found) if found else [],
        )


async def _class_means(
    texts: Sequence[Sequence[int]], classes: Sequence[int], subject: Subject
) -> ClassMeans:
    means = ClassMeans(classes, subject.hidden_size)
    wanted = frozenset(classes)
    for ids in texts:
        if wanted.intersection(ids[1:]):
            reading = await subject.read(ids, ["last_normed"])
            await aside(means.add, ids, reading.hidden["last_normed"])
    return means


def _measured(head_CE: Tensor, means_CE: Tensor) -> dict[str, Any]:
    try:
        found = shared_information(gram(head_CE), gram(means_CE))
        ratios = {"mir": found.mir, "hdr": found.hdr}
    except Undefined as why:
        return {"reason": why.reason}
    return ratios | {
        "reason": None,
        "mutual_information": found.mutual_information,
        "head_entropy": found.entropy1,
        "means_entropy": found.entropy2,
        "joint_entropy": found.joint,
        "mir_at_collapse": mir_at_collapse(len(head_CE)),
    }


def _warnings(item: MirItem) -> list[Caution]:
    if item.num_classes == item.num_classes_found:
        return []
    return [
        Caution(
            code="classes_capped",
            message=f"{item.num_classes_found} tokens come often enough; the commonest "
            f"{item.num_classes} were measured.",
        )
    ]
