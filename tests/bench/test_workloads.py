"""What benchmarks ask: tasks that ship, files of others, made-up tokens."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import tiny_models

from cast_bench.workloads import FORMATS, TASKS, Prompt, Wish, in_turns, load, loading
from cast_server.errors import ConfigError

ROOT = Path(__file__).parents[2]
FIRST = {"question_id": 1, "category": "x", "turns": ["the cat", "and then"]}
SECOND = {"question_id": 2, "category": "x", "turns": ["the dog"]}


@pytest.fixture
def tokenizer(monkeypatch):
    """Without a chat template: a prompt's tokens are those of its text."""
    monkeypatch.setattr(loading, "chat_ids", lambda tokenizer, text: tokenizer.encode(text))
    return tiny_models.byte_level_tokenizer()


def texts(names, tokenizer, count=9):
    loaded = load([str(name) for name in names], Wish(count), tokenizer)
    return [[tokenizer.decode(one.token_ids) for one in some] for some in loaded]


def test_every_task_has_twenty_prompts_of_its_own(tokenizer) -> None:
    found = texts(TASKS, tokenizer, count=99)
    assert [len(some) for some in found] == [20] * len(TASKS)
    everything = [text for some in found for text in some]
    assert len(set(everything)) == len(everything)
    assert min(map(len, everything)) > 20


def test_tasks_are_in_the_public_question_format_and_are_installed() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for task in TASKS:
        file = ROOT / "bench" / "cast_bench" / "workloads" / f"{task}.jsonl"
        assert any(file.match(pattern) for pattern in shipped["package-data"]["*"])
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert {one["category"] for one in records} == {task}
        assert len({one["question_id"] for one in records}) == len(records)


def test_a_file_of_questions(tokenizer, tmp_path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{json.dumps(FIRST)}\n\n{json.dumps(SECOND)}\n")
    assert texts([file], tokenizer) == [["the cat", "the dog"]]
    assert texts([file], tokenizer, count=1) == [["the cat"]]
    [[one, _]] = load([str(file)], Wish(9), tokenizer)
    assert one.dataset == "mine"


@pytest.mark.parametrize(
    ("turns", "who", "what"), [("conversations", "from", "value"), ("messages", "role", "content")]
)
def test_a_file_of_conversations(tokenizer, tmp_path, turns, who, what) -> None:
    user = "human" if who == "from" else "user"
    records = [
        {turns: [{who: "system", what: "be kind"}, {who: user, what: "the end"}]},
        {turns: [{who: "gpt", what: "nobody asked"}]},
        {turns: []},
        {turns: [{who: user, what: "the cat"}, {who: "gpt", what: "the dog"}]},
    ]
    file = tmp_path / "share.json"
    file.write_text(json.dumps(records))
    assert texts([file], tokenizer) == [["the end", "the cat"]]
    assert texts([file], tokenizer, count=1) == [["the end"]]


def test_made_up_tokens_follow_from_the_seed(tokenizer) -> None:
    wish = Wish(3, input_len=7, prefix_len=11, seed=5)
    [[*one], [*shared]] = load(["random", "shared-prefix"], wish, tokenizer)
    assert [len(prompt.token_ids) for prompt in one] == [7] * 3
    assert [len(prompt.token_ids) for prompt in shared] == [18] * 3
    assert len({prompt.token_ids[:11] for prompt in shared}) == 1
    assert len({prompt.token_ids[11:] for prompt in shared}) == 3
    assert load(["random"], wish, tokenizer) == [one]
    assert load(["random"], Wish(3, input_len=7, seed=6), tokenizer) != [one]
    special = set(tokenizer.all_special_ids)
    assert special
    assert not special & {token for prompt in one + shared for token in prompt.token_ids}


def test_workloads_take_turns_until_each_has_ended() -> None:
    a, b = ([Prompt(name, (i,)) for i in range(n)] for name, n in (("a", 3), ("b", 1)))
    assert in_turns([a, b]) == [a[0], b[0], a[1], a[2]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("nowhere", None, r"--dataset \S*nowhere: no such file, and no workload of chat, code"),
        ("table.csv", "a,b", r"must end in \.jsonl or \.json"),
        ("broken.jsonl", "{", "an object a line"),
        ("untold.jsonl", '{"prompt": "x"}', "an object a line"),
        ("number.jsonl", '{"turns": [1]}', "not a text: 1"),
        ("object.json", '{"a": 1}', "a list of objects"),
        ("empty.json", "[]", "there is no prompt in it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tokenizer, tmp_path, name, content, sentence) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        load([str(file)], Wish(1), tokenizer)


def test_every_format_says_what_it_expects() -> None:
    assert set(FORMATS) == {".jsonl", ".json"}
    assert all(one.expects for one in FORMATS.values())
