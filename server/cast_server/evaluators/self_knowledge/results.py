"""What comes out: an item, a rate with its interval, a task's rates in one arm, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from cast_server.evaluators.self_knowledge.params import Arm, GenerationParams

Indicator = Annotated[float, Field(ge=0, le=1)] | None


class Verification(BaseModel):
    """One answer about one text, in a run of its own."""

    text: str = Field(description="what was asked about, after any edit")
    messages: list[dict[str, str]] = Field(description="the whole conversation before the answer")
    raw: str = Field(description="the answer as the model gave it")
    parsed: str | None = Field(description="what it says; null if that cannot be told")
    truth: str | None = Field(description="the right answer; null if there is no way to know")
    truth_reason: str | None = Field(description="why there is none")
    finish_reason: str = Field(description="of the answer: stop or length")


class SelfKnowledgeItem(BaseModel):
    """One question. Indicators are 1 or 0, and null where they cannot be told."""

    index: int = Field(ge=0, description="its place among all items")
    task: str = Field(description="what kind of question it is")
    arm: Arm = Field(description="who wrote the text, and what the model is shown")
    number: int = Field(ge=0, description="of the question: the same in all arms of a task")
    asked: str | None = Field(
        description="the answer that the text was to have; null where two answers are compared"
    )
    prompt: str | None = Field(description="what asked for the text; null for a foreign one")
    prompt2: str | None = Field(description="what asked for the second text, in dual tasks")
    text: str | None = Field(description="as it was written, before any edit")
    text2: str | None = Field(description="the second one, in dual tasks")
    truncated: bool = Field(description="a text of the model ended at max_tokens")
    answer_in_text: bool = Field(
        description="the asked answer stands in the text, so that it could be read off"
    )
    verifications: list[Verification] = Field(description="two in dual and move_sentence tasks")
    paper_score: Indicator = Field(
        description="the answer is the one asked for; with two texts: both answers are the same"
    )
    gen_compliance: Indicator = Field(
        description="the text has the answer asked for; with two texts: both have the same"
    )
    verify_accuracy: Indicator = Field(
        description="the answer is right; with two texts: both answers are"
    )
    verify_given_compliant: Indicator = Field(
        description="verify_accuracy, only where gen_compliance is 1"
    )
    unparsed: Indicator = Field(description="an answer could not be read; then it is not wrong")


class Rate(BaseModel):
    """A share with its 95 % Wilson interval; null where nothing could be told."""

    value: float | None = Field(ge=0, le=1, description="successes over total")
    low: float | None = Field(ge=0, le=1, description="low end of the interval")
    high: float | None = Field(ge=0, le=1, description="its high end")
    successes: int = Field(ge=0, description="items for which it is so")
    total: int = Field(ge=0, description="items for which this can be told")


class Gap(BaseModel):
    """A difference of two rates with a 95 % interval (Newcombe 1998, from both Wilson intervals);
    null where one of them is."""

    value: float | None = Field(ge=-1, le=1, description="the first rate less the second")
    low: float | None = Field(ge=-1, le=1, description="low end of the interval")
    high: float | None = Field(ge=-1, le=1, description="its high end")


class TaskSummary(BaseModel):
    """One task in one arm."""

    task: str = Field(description="as in params.tasks")
    arm: Arm = Field(description="as in params.arms")
    num_items: int = Field(ge=0, description="that came to an end")
    num_truth_unknown: int = Field(ge=0, description="items with a text of unknown right answer")
    num_truncated: int = Field(ge=0, description="items with a text that ended at max_tokens")
    num_answer_in_text: int = Field(ge=0, description="items whose answer could be read off")
    paper_score: Rate = Field(description="I(a = â), over answers that could be read")
    paper_score_strict: Rate = Field(description="the same, an unparsed answer counted as a miss")
    gen_compliance: Rate = Field(description="I(a = true(x))")
    verify_accuracy: Rate = Field(description="I(â = true(x)), over answers that could be read")
    verify_given_compliant: Rate = Field(description="the same, over compliant texts")
    unparsed_rate: Rate = Field(description="answers that could not be read")


class Recipe(BaseModel):
    """All that is needed to do it again, beside the model."""

    evaluator_version: str = Field(description="of this evaluator")
    prompts_version: str = Field(description="of the default prompts")
    overridden: list[str] = Field(description="prompts that are not the default ones")
    templates: Mapping[str, Mapping[str, str]] = Field(description="as used, by task")
    seed: int = Field(description="of questions, foreign texts and sampling")
    generation: GenerationParams = Field(description="how texts were written")
    word_rule: str = Field(description="what counts as a word")


class SelfKnowledgeSummary(BaseModel):
    """Over all items that came to an end."""

    tasks: list[TaskSummary] = Field(description="each in each arm")
    self_gap: Mapping[str, Gap] = Field(
        description="verify_accuracy of self less that of foreign, by task"
    )
    recipe: Recipe = Field(description="what it was made by")
