"""Mistakes in parameters get a sentence that names them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cast_server.evaluators.self_knowledge.params import SelfKnowledgeParams
from cast_server.evaluators.self_knowledge.prompts import fill, gaps
from cast_server.evaluators.self_knowledge.results import SelfKnowledgeItem, SelfKnowledgeSummary
from cast_server.evaluators.self_knowledge.tasks import TASKS


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (
            {"total_count": {"generate": "Write about {topic}."}},
            "`prompts.total_count.generate` must contain {answer}; 'Write about {topic}.' does",
        ),
        (
            {"designated_count": {"verify": "How often in {text}?"}},
            "`prompts.designated_count.verify` must contain {word}",
        ),
        (
            {"total_count": {"verify": "Has it {answer} words? {text}"}},
            "`prompts.total_count.verify` has {answer}, but can only be given {text}.",
        ),
        (
            {"maths": {"generate": "{topic} {answer}"}},
            "has {topic}, but can only be given {answer}",
        ),
        ({"maths": {"generate": "{answer.__class__}"}}, "{answer.__class__} is no plain name"),
        ({"maths": {"generate": "{answer!r:>9}"}}, "{answer} is no plain name"),
        ({"maths": {"generate": "{answer"}}, "cannot be read"),
        ({"maths": {"generate2": "{text}"}}, "`prompts.maths.generate2` cannot be set"),
        ({"sums": {"verify": "{text}"}}, "`prompts` has 'sums'; the tasks are total_count"),
        ({"maths": {"verify": ""}}, "at least 1 character"),
    ],
)
def test_prompts_that_cannot_be_used(prompts: dict[str, dict[str, str]], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        SelfKnowledgeParams.model_validate({"prompts": prompts})
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"tasks": ["sums"]}, "`tasks` has 'sums'; the tasks are total_count, "),
        ({"tasks": ["code", "code"]}, "`tasks` names something twice: code, code."),
        ({"tasks": []}, "at least 1 item"),
        ({"arms": ["self", "self"]}, "`arms` names something twice: self, self."),
        ({"n": 5000}, "make 140000 items; at most 20000 are allowed: lower `n`."),
        ({"n": 0}, "greater than or equal to 1"),
        (
            {"arms": ["in_context"], "tasks": ["code", "delete_word", "dual_code"]},
            "delete_word, dual_code have none: leave these tasks out of `tasks`.",
        ),
        ({"generation": {"temperature": -1}}, "greater than or equal to 0"),
        ({"shots": 3}, "Extra inputs are not permitted"),
    ],
)
def test_parameters_that_cannot_be_used(params: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        SelfKnowledgeParams.model_validate(params)
    assert sentence in str(error.value)


def test_a_prompt_of_ones_own() -> None:
    mine = {"total_count": {"generate": "{answer} words, {{curly}}"}}
    params = SelfKnowledgeParams.model_validate({"prompts": mine})
    prompts = params.prompts_of("total_count")
    assert fill(prompts.generate, {"answer": "{text} 5"}) == "{text} 5 words, {curly}"
    assert prompts.verify == TASKS["total_count"].prompts.verify
    assert gaps(prompts.generate) == {"answer"}


def test_the_schema_tells_all() -> None:
    schema = SelfKnowledgeParams.model_json_schema()
    assert schema["properties"]["tasks"]["items"]["enum"] == list(TASKS)
    assert all("description" in field for field in schema["properties"].values())
    for model in (SelfKnowledgeItem, SelfKnowledgeSummary):
        assert model.model_json_schema(mode="serialization")
    defaults = SelfKnowledgeParams()
    assert (defaults.generation.temperature, defaults.arms) == (0, ("self", "foreign"))
