"""Items by number: their task, arm and question. A function of the parameters alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cast_server.evaluators.base import Unit
from cast_server.evaluators.self_knowledge.params import CONTEXT_ARMS, Arm, SelfKnowledgeParams
from cast_server.evaluators.self_knowledge.prompts import Prompts
from cast_server.evaluators.self_knowledge.task import Question, Shape, Task
from cast_server.evaluators.self_knowledge.tasks import TASKS
from cast_server.evaluators.subject import Generation


@dataclass(frozen=True, slots=True)
class Case:
    """The item `index`: question `number` of a task, in one arm.

    author: the index of the item whose texts are verified. Arms in which the model writes share
    them; those of the first such arm do the writing. None if the text is foreign.
    """

    params: SelfKnowledgeParams
    index: int
    task_id: str
    arm: Arm
    number: int
    author: int | None

    @property
    def task(self) -> Task:
        return TASKS[self.task_id].task

    @property
    def prompts(self) -> Prompts:
        return self.params.prompts_of(self.task_id)

    @property
    def question(self) -> Question:
        return self.task.question(self.rng("question"))

    @property
    def is_in_context(self) -> bool:
        return self.arm in CONTEXT_ARMS

    @property
    def phases(self) -> tuple[str, ...]:
        """Of its own: what another item writes is not among them."""
        phases = self.task.shape.value
        return phases if self.author == self.index else tuple(p for p in phases if "verify" in p)

    def rng(self, purpose: str) -> Random:
        """The same in all arms, so that they have their questions in common."""
        return Random(f"{self.params.seed}/{self.task_id}/{self.number}/{purpose}")

    def how(self, phase: str) -> Generation:
        settings = self.params.generation
        is_answer = "verify" in phase
        return Generation(
            max_tokens=settings.max_answer_tokens if is_answer else settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self.rng(f"{self.arm}/{phase}").getrandbits(31),
        )


def case(params: SelfKnowledgeParams, index: int) -> Case:
    """Arms of a question are neighbours, questions of a task too."""
    question, place = divmod(index, len(params.arms))
    task, number = divmod(question, params.n)
    arm = params.arms[place]
    first = next((i for i, other in enumerate(params.arms) if other != Arm.FOREIGN), None)
    author = None if arm == Arm.FOREIGN or first is None else index - place + first
    return Case(params, index, params.tasks[task], arm, number, author)


def cases(params: SelfKnowledgeParams) -> list[Case]:
    return [case(params, i) for i in range(len(params.tasks) * params.n * len(params.arms))]


def units(params: SelfKnowledgeParams) -> list[Unit]:
    """Phase by phase."""
    everything = cases(params)
    return [
        Unit(phase, one.index)
        for phase in Shape.DUAL.value
        for one in everything
        if phase in one.phases
    ]
