"""What an evaluator is. A new one is one file with a subclass, and one line in `registry.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from cast_server.evaluators.subject import Capability, Subject


class Params(BaseModel):
    """Base of all parameters: a field that does not exist is an error, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Params)
Record = Mapping[str, Any]  # JSON: what is undefined is None with a reason beside it, never NaN


@dataclass(frozen=True, slots=True)
class Unit:
    """The least piece of work: done or not done, kept in the journal once done.

    Units of one phase may run side by side; a phase begins when the one before it has ended.
    index: which item (a text, a question) it belongs to.
    """

    phase: str
    index: int


class Undefined(ValueError):
    """A measure that this input does not have. `reason` is a word for machines."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Evaluator(ABC, Generic[P]):
    """Plans units, runs them one by one against a subject, and makes items and a summary of what
    they left. It holds no state: everything is in the parameters, the inputs and the records.

    version: changes whenever the same input would give another number.
    title, description: for people who list evaluators.
    params_type: parameters, validated and described in OpenAPI by themselves.
    item_type, summary_type: what comes out, for each item and over all.
    metrics: fields of an item that are numbers and can be compared between two subjects.
    """

    id: ClassVar[str]
    version: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    params_type: ClassVar[type[Params]]
    item_type: ClassVar[type[BaseModel]]
    summary_type: ClassVar[type[BaseModel]]
    metrics: ClassVar[tuple[str, ...]]

    @abstractmethod
    def requires(self, params: P) -> frozenset[Capability]:
        """What the subject must be able to do."""

    @abstractmethod
    def plan(self, params: P, inputs: Sequence[str]) -> list[Unit]:
        """All units in the order of their phases. `inputs` are the texts of the request; an
        evaluator that makes its own items takes none. Raises `RequestError` for inputs that it
        cannot work on, with `param` as in the API."""

    @abstractmethod
    async def run(
        self,
        unit: Unit,
        params: P,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],
    ) -> Record:
        """One unit's record. `done` holds the records of all earlier phases that did not fail."""

    @abstractmethod
    def items(
        self, params: P, inputs: Sequence[str], records: Mapping[Unit, Record]
    ) -> list[BaseModel]:
        """`item_type`s, one an item, from whatever units are done: those still missing, or
        failed, leave an item out or a field None."""

    @abstractmethod
    def summarise(self, params: P, items: Sequence[BaseModel]) -> BaseModel:
        """A `summary_type` over finished items; undefined ones are counted and left out."""
