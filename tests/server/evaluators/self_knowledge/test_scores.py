"""Scripted models get the scores that theory gives them; a verifying run knows only the text."""

from __future__ import annotations

import json
from random import Random

import pytest
from scripted_writers import (
    COUNTED,
    PARAGRAPH,
    Mute,
    Parrot,
    Perfect,
    Sloppy,
    evaluated,
    records_of,
)

from cast_server.errors import RequestError
from cast_server.evaluators.base import Undefined, Unit
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.self_knowledge.cases import Case, cases
from cast_server.evaluators.self_knowledge.conversations import writing
from cast_server.evaluators.self_knowledge.evaluator import SelfKnowledge
from cast_server.evaluators.self_knowledge.params import (
    Arm,
    GenerationParams,
    SelfKnowledgeParams,
)
from cast_server.evaluators.self_knowledge.prompts import gaps
from cast_server.evaluators.self_knowledge.results import SelfKnowledgeItem, TaskSummary
from cast_server.evaluators.self_knowledge.task import Question
from cast_server.evaluators.self_knowledge.tasks import TASKS
from cast_server.evaluators.subject import Capability

EDITS = ("add_first_word", "delete_word", "change_word")
DUALS = tuple(task for task in TASKS if task.startswith("dual_"))
RATES = ("paper_score", "gen_compliance", "verify_accuracy", "verify_given_compliant")


def scores(summary: TaskSummary) -> tuple[float | None, ...]:
    return tuple(getattr(summary, name).value for name in (*RATES, "unparsed_rate"))


def run(subject_type: type[Perfect], tasks: tuple[str, ...], **kwargs: object) -> list[TaskSummary]:
    params = SelfKnowledgeParams(tasks=tasks, n=4, **{"arms": ("self",), **kwargs})
    return evaluated(params, subject_type(params))[1].tasks


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arm", ["self", "foreign"])
def test_perfect(task: str, arm: str) -> None:
    (found,) = run(Perfect, (task,), arms=(arm,))
    if (task, arm) == ("facts", "self"):
        assert scores(found) == (1, None, None, None, 0)
        assert found.num_truth_unknown == 4
    else:
        assert scores(found) == (1, 1, 1, 1, 0)
        assert found.num_truth_unknown == 0
    assert found.num_items == 4


@pytest.mark.parametrize("task", [*COUNTED, "theorem", *DUALS])
def test_parrot_scores_in_the_paper_and_is_wrong(task: str) -> None:
    (found,) = run(Parrot, (task,))
    assert scores(found) == (1, 0, 0, None, 0)


@pytest.mark.parametrize("task", [*COUNTED, "theorem", *DUALS])
def test_sloppy_fails_in_the_paper_and_is_right(task: str) -> None:
    (found,) = run(Sloppy, (task,))
    assert scores(found) == (0, 0, 1, None, 0)


def test_answers_that_agree_about_a_moved_sentence_can_both_be_wrong() -> None:
    (found,) = run(Parrot, ("move_sentence",))
    assert scores(found) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("task", EDITS)
def test_a_wrong_word(task: str) -> None:
    (found,) = run(Parrot, (task,))
    assert scores(found) == (0, 1, 0, 0, 0)


@pytest.mark.parametrize("task", TASKS)
def test_mute_is_unparsed_and_not_wrong(task: str) -> None:
    (found,) = run(Mute, (task,))
    assert found.unparsed_rate.value == 1
    assert (found.unparsed_rate.low, found.unparsed_rate.high) == pytest.approx(
        (0.5101, 1), abs=1e-3
    )
    assert found.paper_score.total == found.verify_accuracy.total == 0
    assert found.paper_score.value is None
    assert (found.paper_score_strict.value, found.paper_score_strict.total) == (0, 4)


def test_self_gap_is_what_own_texts_cost() -> None:
    params = SelfKnowledgeParams(tasks=("total_count",), n=5)
    gap = evaluated(params, Parrot(params))[1].self_gap["total_count"]
    assert gap.value == 0  # wrong about everybody's
    params = SelfKnowledgeParams(tasks=("code",), n=5)

    class OnlyForeign(Perfect):
        def verify(self, task: str, found: dict[str, str]) -> str:
            return "0" if "```" in found["text"] else super().verify(task, found)

    gap = evaluated(params, OnlyForeign(params))[1].self_gap["code"]
    assert (gap.value, gap.low) == (-1, -1)
    assert gap.high is not None
    assert -0.5 < gap.high < 0


class Sentinel(Perfect):
    """Writes the same text, without a number in it, whatever it is asked for."""

    def reply(self, prompt: str) -> str:
        return PARAGRAPH


@pytest.mark.parametrize("task", TASKS)
def test_a_verifying_run_knows_the_text_alone(task: str) -> None:
    params = SelfKnowledgeParams(tasks=(task,), arms=("self",), n=6)
    subject = Sentinel(params)
    items, _ = evaluated(params, subject)
    for item, case in zip(items, cases(params), strict=True):
        for verification in item.verifications:
            (message,) = verification.messages
            assert item.prompt
            assert item.prompt not in message["content"]
            assert message["content"].count(verification.text) == 1
            rest = message["content"].replace(verification.text, "")
            if TASKS[task].asks and task != "theorem":  # whose question names both answers
                assert case.question.wording not in rest
                assert case.question.asked not in rest
    rests = {
        v.messages[0]["content"].replace(v.text, "") for item in items for v in item.verifications
    }
    if task not in ("designated_count", "dual_designated_count", *EDITS):
        assert len(rests) == 1  # one question for all answers


@pytest.mark.parametrize("entry", TASKS.values(), ids=TASKS)
def test_no_verifying_prompt_names_the_answer(entry: object) -> None:
    prompts = entry.prompts  # type: ignore[attr-defined]
    assert "text" in gaps(prompts.verify)
    assert "answer" not in gaps(prompts.verify)


def test_arms_in_context_show_how_the_text_was_made() -> None:
    arms = ("foreign", "in_context", "self", "in_context_noise")
    params = SelfKnowledgeParams(tasks=("total_count", "code"), arms=arms, n=2)
    subject = Perfect(params)
    items, summary = evaluated(params, subject)
    assert [found.paper_score.value for found in summary.tasks] == [1.0] * 8
    by_arm = {item.arm: item for item in items if (item.task, item.number) == ("code", 1)}
    plain, shown = by_arm[Arm.SELF], by_arm[Arm.IN_CONTEXT].verifications[0].messages
    noisy = by_arm[Arm.IN_CONTEXT_NOISE].verifications[0].messages
    case = next(case for case in cases(params) if case.index == plain.index)
    assert [m["role"] for m in shown] == ["user", "assistant", "user"]
    assert [m["content"] for m in shown[:2]] == [writing(case), plain.text]
    assert noisy[:2] == shown[:2]
    assert noisy[-1] == shown[-1] == plain.verifications[0].messages[0]
    assert [m["role"] for m in noisy] == ["user", "assistant"] * 2 + ["user"]
    assert noisy[3]["content"] in noisy[2]["content"]
    assert by_arm[Arm.FOREIGN].prompt is None


def test_arms_share_the_texts_of_the_model() -> None:
    arms = ("foreign", "self", "in_context")
    params = SelfKnowledgeParams(tasks=("maths",), arms=arms, n=3)
    units = SelfKnowledge().plan(params, [])
    assert [unit.index for unit in units if unit.phase == "generate"] == [1, 4, 7]
    assert [unit.index for unit in units if unit.phase == "verify"] == list(range(9))
    items, _ = evaluated(params, Perfect(params))
    assert all(items[i].text == items[i + 1].text for i in (1, 4, 7))


def test_phases_follow_one_another() -> None:
    params = SelfKnowledgeParams(tasks=("total_count", "move_sentence", "dual_maths"), n=2)
    phases = [unit.phase for unit in SelfKnowledge().plan(params, [])]
    assert list(dict.fromkeys(phases)) == ["generate", "generate2", "verify", "verify2"]
    assert phases == sorted(phases)  # none comes back once the next has begun
    counts = {phase: phases.count(phase) for phase in phases}
    assert counts == {"generate": 6, "generate2": 2, "verify": 12, "verify2": 8}


def test_the_same_seed_makes_the_same_items() -> None:
    params = SelfKnowledgeParams(n=2, seed=5)
    first, again = (
        json.dumps([item.model_dump(mode="json") for item in evaluated(params, Perfect(params))[0]])
        for _ in range(2)
    )
    assert first == again
    other = SelfKnowledgeParams(n=2, seed=6)
    assert first != json.dumps(
        [item.model_dump(mode="json") for item in evaluated(other, Perfect(other))[0]]
    )


def test_a_question_depends_on_seed_task_and_number_alone() -> None:
    few = SelfKnowledgeParams(tasks=("maths",), n=2, arms=("self",))
    many = SelfKnowledgeParams(tasks=("code", "maths"), n=9)
    asked = {(c.task_id, c.number): c.question for c in cases(many)}
    assert all(asked["maths", case.number] == case.question for case in cases(few))


def test_sampling_has_a_seed_for_each_text() -> None:
    params = SelfKnowledgeParams(n=3, generation=GenerationParams(temperature=1.0, max_tokens=99))
    units = SelfKnowledge().plan(params, [])
    made = cases(params)
    hows = [made[unit.index].how(unit.phase) for unit in units]
    assert len({how.seed for how in hows}) == len(units)
    assert {how.max_tokens for how in hows} == {99, 128}


def test_records_survive_a_journal() -> None:
    params = SelfKnowledgeParams(n=1)
    records = records_of(params, Perfect(params))
    kept = {unit: json.loads(json.dumps(record)) for unit, record in records.items()}
    evaluator = SelfKnowledge()
    assert evaluator.items(params, [], kept) == evaluator.items(params, [], records)


def test_items_of_what_is_done_so_far() -> None:
    params = SelfKnowledgeParams(tasks=("total_count", "dual_maths"), arms=("self",), n=2)
    records = records_of(params, Perfect(params))
    some = {
        unit: record
        for unit, record in records.items()
        if unit.index != 1 and unit.phase != "verify2" and unit != Unit("verify", 0)
    }
    items = [i for i in SelfKnowledge().items(params, [], some) if isinstance(i, SelfKnowledgeItem)]
    assert [item.index for item in items] == [0, 2, 3]
    assert items[0].text
    assert items[0].paper_score is items[0].unparsed is None
    assert items[1].unparsed is items[1].verify_accuracy is None
    assert len(items[1].verifications) == 1
    assert SelfKnowledge().items(params, [], {}) == []


@pytest.mark.parametrize(
    ("task", "position", "edited", "asked"),
    [
        ("add_first_word", "1", "copper One two three. Four!", "copper"),
        ("delete_word", "2", "One three. Four!", "three"),
        ("change_word", "2", "One copper three. Four!", "copper"),
    ],
)
def test_a_word_is_edited_in_its_place(task: str, position: str, edited: str, asked: str) -> None:
    question = Question(fields={"position": position, "word": "copper"})
    presented = TASKS[task].task.present("One two three.\nFour!", question)
    assert (presented.text, presented.asked) == (edited, asked)


def test_the_first_sentence_moves_to_the_end() -> None:
    params = SelfKnowledgeParams(tasks=("move_sentence",), arms=("self",), n=1)
    (item,), _ = evaluated(params, Perfect(params))
    before, after = (verification.text for verification in item.verifications)
    first, rest = "The boat left in the morning.", "It went by the island"
    assert before == PARAGRAPH
    assert before.startswith(f"{first} {rest}")
    assert after.startswith(rest)
    assert after.endswith(f"it came back. {first}")


def test_a_text_that_cannot_be_edited_is_undefined() -> None:
    class Terse(Perfect):
        def reply(self, prompt: str) -> str:
            return "No."

    for task in (*EDITS, "move_sentence"):
        params = SelfKnowledgeParams(tasks=(task,), arms=("self",), n=1)
        with pytest.raises(Undefined, match="text_too_short"):
            evaluated(params, Terse(params))


def test_a_text_may_give_the_answer_away() -> None:
    params = SelfKnowledgeParams(tasks=("total_count",), arms=("self",), n=9)
    (first, *others) = [case.question.asked for case in cases(params)]

    class Chatty(Perfect):
        def compose(self, case: Case) -> str:
            return f"Here are your {first} words: " + super().compose(case)

    items, summary = evaluated(params, Chatty(params))
    assert {item.asked for item in items if item.answer_in_text} == {first}
    assert summary.tasks[0].num_answer_in_text == 1 + others.count(first)


def test_the_recipe_says_how_it_was_done() -> None:
    mine = "Please count the words of this:\n{text}"
    params = SelfKnowledgeParams(
        tasks=("total_count", "dual_maths"), n=1, seed=9, prompts={"total_count": {"verify": mine}}
    )
    recipe = evaluated(params, Sentinel(params))[1].recipe
    assert recipe.overridden == ["total_count.verify"]
    assert recipe.templates["total_count"]["verify"] == mine
    assert recipe.templates["dual_maths"]["generate2"] == TASKS["dual_maths"].prompts.generate2
    assert (recipe.seed, recipe.prompts_version, recipe.evaluator_version) == (9, "1", "1")


@pytest.mark.parametrize("task", TASKS)
def test_foreign_texts_are_what_they_claim(task: str) -> None:
    for number in range(30):
        family = TASKS[task].task
        question = family.question(Random(number))
        text, answer = family.foreign(question, Random(number))
        assert family.foreign(question, Random(number)) == (text, answer)
        presented = family.present(text, question)
        if task == "facts":
            with pytest.raises(Undefined, match="no_oracle"):
                family.truth(text, question)
        else:
            assert family.truth(presented.text, question) == answer


def test_it_takes_no_texts_and_needs_a_writer() -> None:
    evaluator = EVALUATORS["self_knowledge"]
    with pytest.raises(
        RequestError, match=r"takes no texts, but got 1: leave `input` out"
    ) as error:
        evaluator.plan(SelfKnowledgeParams(), ["a text"])
    assert error.value.param == "input"
    assert evaluator.requires(SelfKnowledgeParams()) == {Capability.GENERATION}
    assert set(evaluator.metrics) <= set(SelfKnowledgeItem.model_fields)
