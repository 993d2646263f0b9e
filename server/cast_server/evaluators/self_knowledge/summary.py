"""From items to rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import sqrt

from cast_server.evaluators.measures.intervals import wilson_interval
from cast_server.evaluators.self_knowledge.params import Arm, SelfKnowledgeParams
from cast_server.evaluators.self_knowledge.results import (
    Gap,
    Indicator,
    Rate,
    Recipe,
    SelfKnowledgeItem,
    SelfKnowledgeSummary,
    TaskSummary,
)
from cast_server.evaluators.self_knowledge.tasks import PROMPTS_VERSION
from cast_server.evaluators.self_knowledge.words import WORD_RULE


def summary(
    params: SelfKnowledgeParams, items: Sequence[SelfKnowledgeItem], version: str
) -> SelfKnowledgeSummary:
    """Of items that came to an end."""
    places = [(task, arm) for task in params.tasks for arm in params.arms]
    tasks = [
        task_summary(task, arm, [item for item in items if (item.task, item.arm) == (task, arm)])
        for task, arm in places
    ]
    accuracies = {(found.task, found.arm): found.verify_accuracy for found in tasks}
    gaps = {
        task: gap(accuracies[task, Arm.SELF], accuracies[task, Arm.FOREIGN])
        for task in params.tasks
        if {Arm.SELF, Arm.FOREIGN} <= set(params.arms)
    }
    return SelfKnowledgeSummary(tasks=tasks, self_gap=gaps, recipe=recipe(params, version))


def task_summary(task: str, arm: Arm, items: Sequence[SelfKnowledgeItem]) -> TaskSummary:
    return TaskSummary(
        task=task,
        arm=arm,
        num_items=len(items),
        num_truth_unknown=sum(any(v.truth is None for v in i.verifications) for i in items),
        num_truncated=sum(item.truncated for item in items),
        num_answer_in_text=sum(item.answer_in_text for item in items),
        paper_score=rate(item.paper_score for item in items),
        paper_score_strict=rate(0.0 if item.unparsed else item.paper_score for item in items),
        gen_compliance=rate(item.gen_compliance for item in items),
        verify_accuracy=rate(item.verify_accuracy for item in items),
        verify_given_compliant=rate(item.verify_given_compliant for item in items),
        unparsed_rate=rate(item.unparsed for item in items),
    )


def rate(indicators: Iterable[Indicator]) -> Rate:
    """Those that are None are left out."""
    told = [indicator for indicator in indicators if indicator is not None]
    successes, total = round(sum(told)), len(told)
    if not total:
        return Rate(value=None, low=None, high=None, successes=0, total=0)
    low, high = wilson_interval(successes, total)
    return Rate(value=successes / total, low=low, high=high, successes=successes, total=total)


def gap(one: Rate, other: Rate) -> Gap:
    """Of independent samples: one less other."""
    numbers = (one.value, one.low, one.high, other.value, other.low, other.high)
    if any(number is None for number in numbers):
        return Gap(value=None, low=None, high=None)
    p, p_low, p_high, q, q_low, q_high = (number or 0.0 for number in numbers)
    below, above = (
        sqrt((p - p_low) ** 2 + (q_high - q) ** 2),
        sqrt((p_high - p) ** 2 + (q - q_low) ** 2),
    )
    return Gap(value=p - q, low=max(p - q - below, -1.0), high=min(p - q + above, 1.0))


def recipe(params: SelfKnowledgeParams, version: str) -> Recipe:
    return Recipe(
        evaluator_version=version,
        prompts_version=PROMPTS_VERSION,
        overridden=[
            f"{task}.{name}"
            for task in params.tasks
            if task in params.prompts
            for name in params.prompts[task].model_dump(exclude_none=True)
        ],
        templates={task: _templates(params, task) for task in params.tasks},
        seed=params.seed,
        generation=params.generation,
        word_rule=WORD_RULE,
    )


def _templates(params: SelfKnowledgeParams, task: str) -> Mapping[str, str]:
    used = asdict(params.prompts_of(task))
    return {name: template for name, template in used.items() if template is not None}
