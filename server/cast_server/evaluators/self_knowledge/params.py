"""What can be chosen of a self-knowledge evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, TypeVar

from pydantic import Field, field_validator, model_validator

from cast_server.evaluators.base import Params
from cast_server.evaluators.self_knowledge import prompts as templates
from cast_server.evaluators.self_knowledge.prompts import Prompts
from cast_server.evaluators.self_knowledge.tasks import TASKS

_MAX_ITEMS: Final = 20_000
Template = Annotated[str, Field(min_length=1, max_length=4000)]
T = TypeVar("T")
TaskId = Annotated[str, Field(json_schema_extra={"enum": list(TASKS)})]


class Arm(StrEnum):
    """Who wrote the text, and what the verifying run knows of it."""

    SELF = "self"  # the model; nothing
    FOREIGN = "foreign"  # a generator of this server; nothing
    IN_CONTEXT = "in_context"  # the model; the conversation in which it was written
    IN_CONTEXT_NOISE = "in_context_noise"  # the same, and another exchange in between


CONTEXT_ARMS: Final = frozenset({Arm.IN_CONTEXT, Arm.IN_CONTEXT_NOISE})


class GenerationParams(Params):
    """How texts and answers are written."""

    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens only")
    max_tokens: int = Field(256, ge=1, le=4096, description="of a text that the model writes")
    max_answer_tokens: int = Field(128, ge=1, le=4096, description="of a verifying answer")


class PromptOverrides(Params):
    """Prompts of one task instead of the default ones, with the same names in braces; {topic} may
    be left out, and a brace itself is doubled."""

    generate: Template | None = Field(None, description="asks for a text")
    generate2: Template | None = Field(
        None, description="asks for one like {text}; dual tasks only"
    )
    verify: Template | None = Field(None, description="asks about {text}")


class SelfKnowledgeParams(Params):
    """Same parameters and seed, same items."""

    tasks: tuple[TaskId, ...] = Field(
        tuple(TASKS), min_length=1, description="which tasks; each at most once"
    )
    arms: tuple[Arm, ...] = Field(
        (Arm.SELF, Arm.FOREIGN),
        min_length=1,
        description="self: the model verifies its own text; foreign: one of a built-in generator; "
        "in_context: its own, with the conversation that made it; in_context_noise: and with an "
        "unrelated exchange in between",
    )
    n: int = Field(20, ge=1, le=5000, description="items of each task and arm")
    seed: int = Field(0, ge=0, lt=2**63, description="of questions, foreign texts and sampling")
    generation: GenerationParams = Field(GenerationParams(), description="how the model writes")
    prompts: Mapping[str, PromptOverrides] = Field(
        {}, description="prompts instead of the default ones, by task"
    )

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            _check_task("tasks", task)
        return _unique("tasks", tasks)

    @field_validator("arms")
    @classmethod
    def _unique_arms(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return _unique("arms", arms)

    @field_validator("prompts")
    @classmethod
    def _usable_prompts(
        cls, prompts: Mapping[str, PromptOverrides]
    ) -> Mapping[str, PromptOverrides]:
        for task, overrides in prompts.items():
            _check_task("prompts", task)
            for name, template in overrides.model_dump(exclude_none=True).items():
                default = getattr(TASKS[task].prompts, name)
                templates.check(f"prompts.{task}.{name}", template, default)
        return prompts

    @model_validator(mode="after")
    def _possible(self) -> SelfKnowledgeParams:
        if (total := len(self.tasks) * len(self.arms) * self.n) > _MAX_ITEMS:
            raise ValueError(
                f"{len(self.tasks)} tasks, {len(self.arms)} arms and n = {self.n} make {total} "
                f"items; at most {_MAX_ITEMS} are allowed: lower `n`."
            )
        silent = [task for task in self.tasks if not TASKS[task].asks]
        if silent and CONTEXT_ARMS & set(self.arms):
            raise ValueError(
                "The arms in_context and in_context_noise show the prompt that asked for the "
                f"answer; {', '.join(silent)} have none: leave these tasks out of `tasks`."
            )
        return self

    def prompts_of(self, task: str) -> Prompts:
        """The default ones, but for what is overridden."""
        default, overrides = TASKS[task].prompts, self.prompts.get(task, PromptOverrides())
        return Prompts(
            overrides.generate or default.generate,
            overrides.verify or default.verify,
            overrides.generate2 or default.generate2,
        )


def _check_task(where: str, task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"`{where}` has {task!r}; the tasks are {', '.join(TASKS)}.")


def _unique(where: str, values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"`{where}` names something twice: {', '.join(map(str, values))}.")
    return values
