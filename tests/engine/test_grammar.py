"""Answers held to a grammar: always of its language, and the same however they are drafted."""

from __future__ import annotations

import json
import pickle
import re

import jsonschema
import numpy as np
import pytest
import tiny_models
from engine.driving import Adversary, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_reference import PAGED

from cast_drafters.base import DraftLimits
from cast_drafters.tree import tree_from_arrays
from cast_server import build
from cast_server.engine.device_pass import DevicePass
from cast_server.engine.grammar import Grammar
from cast_server.engine.grammar_drafts import held_to
from cast_server.engine.grammars import Grammars
from cast_server.engine.request import SamplingParams
from cast_server.errors import RequestError

VOCAB, END = tiny_models.VOCAB_SIZE, 0
TOKENIZER = tiny_models.byte_level_tokenizer()
PROMPT = TOKENIZER("the cat and the dog")["input_ids"]
POLICIES = ("off", "tree:12", "chain:4", "cast")
# Random models would fill whole answers with whitespace, which JSON allows between tokens.
NO_SPACES = {TOKENIZER.convert_tokens_to_ids(token): -100.0 for token in "ĠĊčĉ"}
NAME = {"type": "string", "maxLength": 6}
PERSON = {
    "type": "object",
    "properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS = (
    PERSON,
    {"type": "array", "items": {"enum": ["red", "reddish", "blue", 3, None]}, "maxItems": 4},
    {"anyOf": [{"const": {"x": [1, 2]}}, NAME, {"type": "boolean"}]},
    {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "code": {"pattern": "^[A-C]{2}$"},
        },
        "required": ["when", "code"],
        "additionalProperties": False,
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    {"type": "array", "prefixItems": [PERSON, NAME], "items": False, "minItems": 2},
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def core():
    return tiny_models.tiny_core(tiny_models.model_of("llama"))


def by_schema(schema) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def held(name, grammar, policy="off", seed=0, **changes):
    fields = {"max_tokens": 120, "temperature": 1.0, "logit_bias": NO_SPACES} | changes
    return request(name, PROMPT, SamplingParams(grammar=grammar, **fields), policy, seed)


def assert_valid(answer, schema) -> None:
    if answer.last.finish_reason == "length":
        assert len(answer.tokens) == 120
    else:
        assert answer.last.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), schema)


def allowed(state, path=(), unwanted=()) -> set[int]:
    return set(np.flatnonzero(state.allowed(path, unwanted)).tolist())


def test_every_answer_is_valid_and_the_same_with_any_drafts(core) -> None:
    """Greedy and sampled, beside each other and beside requests that are free."""
    plain: dict[str, list[int]] = {}
    for policy in POLICIES:
        requests = [request("free", PROMPT, SamplingParams(max_tokens=60), policy, 3)]
        for number, schema in enumerate(SCHEMAS):
            requests += [
                held(f"{number}/{seed}", by_schema(schema), policy, seed) for seed in range(5)
            ]
            requests.append(held(f"{number}/greedy", by_schema(schema), policy, temperature=0.0))
        answers = run(core, requests)
        for name, answer in answers.items():
            if name != "free":
                assert_valid(answer, SCHEMAS[int(name.split("/")[0])])
                assert answer.text == TOKENIZER.decode(answer.tokens, skip_special_tokens=True)
            assert answer.tokens == plain.setdefault(name, answer.tokens), (policy, name)
        ends = [a.last.finish_reason for name, a in answers.items() if name != "free"]
        assert ends.count("stop") > 0.8 * len(ends)
    alone = run(core, [held("0/1", by_schema(SCHEMAS[0]), "tree:12", 1)])
    assert alone["0/1"].tokens == plain["0/1"]


LEAVES = st.one_of(
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": "the cat"}, {"enum": [1, "a"]}]
    ),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-50, 50),
        st.integers(0, 1000),
    ),
)


def containers(inner):
    objects = st.dictionaries(st.sampled_from(["a", "the", "é🙂", 'q"']), inner, max_size=2)
    return st.one_of(
        st.builds(
            lambda fields, drop: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields)[drop:],
                "additionalProperties": False,
            },
            objects,
            st.integers(0, 1),
        ),
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    )


@settings(deadline=None, max_examples=15)
@given(st.recursive(LEAVES, containers, max_leaves=5), st.integers(0, 99))
def test_made_up_schemas_hold(core, schema, seed) -> None:
    answers = run(
        core, [held(policy, by_schema(schema), policy, seed) for policy in ("off", "tree:12")]
    )
    assert_valid(answers["off"], schema)
    assert answers["off"].tokens == answers["tree:12"].tokens


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar("regex", "(abc|d)+"), "(abc|d)+"),
        (Grammar("regex", "^[0-9]{3}-x?$"), "[0-9]{3}-x?"),
        (Grammar("choice", '["the cat", "the dog", "né\\"🙂\\n"]'), 'the cat|the dog|né"🙂\n'),
        (Grammar("lark", 'start: "<" %json {"type": "boolean"} ">"'), "<(true|false)>"),
        (Grammar("gbnf", 'root ::= "x" [0-9]+ tail\ntail ::= "y" | "z"'), "x[0-9]+[yz]"),
    ],
)
def test_other_kinds_of_grammar(core, grammar, pattern) -> None:
    requests = [
        held(f"{policy} {seed}", grammar, policy, seed) for policy in POLICIES for seed in range(3)
    ]
    answers = run(core, requests)
    for name, answer in answers.items():
        assert answer.tokens == answers[f"off {name[-1]}"].tokens
        if answer.last.finish_reason == "stop":
            assert re.fullmatch(pattern, answer.text), answer.text
    assert any(answer.last.finish_reason == "stop" for answer in answers.values())


def test_every_sampling_parameter_beside_a_grammar(core) -> None:
    mixes = (
        {"top_k": 1},
        {"top_p": 0.3, "temperature": 1.4},
        {"min_p": 0.5},
        {"repetition_penalty": 1.8, "presence_penalty": 2.0, "frequency_penalty": 1.0},
        {"logit_bias": NO_SPACES | {TOKENIZER.convert_tokens_to_ids("{"): -100.0}},
        {"stop": ('"age"',)},
        {"logprobs": 3},
    )
    requests = [
        held(f"{policy} {i}", by_schema(PERSON), policy, i, **mix)
        for policy in POLICIES
        for i, mix in enumerate(mixes)
    ]
    answers = run(core, requests)
    for name, answer in answers.items():
        assert answer.tokens == answers[f"off {name[-1]}"].tokens
        if name[-1] == "5":
            assert answer.last.stop_reason == '"age"'
        else:
            assert_valid(answer, PERSON)
    # Reported is what the model itself thinks, of whatever the grammar has left to it.
    first = answers["off 6"].logprobs[0]
    assert first.token_id == TOKENIZER.convert_tokens_to_ids("{")
    assert first.logprob < -0.01


def test_preemption_in_the_middle() -> None:
    core = tiny_models.tiny_core(
        tiny_models.model_of("llama"), kv_cache_tokens=180, max_model_len=160
    )
    requests = [
        held(str(i), by_schema(SCHEMAS[i % 6]), ("off", "tree:6")[i % 2], i, max_tokens=60)
        for i in range(8)
    ]
    expected = {one.id: run(core, [one])[one.id].tokens for one in requests}
    assert core.scheduler.num_preemptions == 0
    assert {name: one.tokens for name, one in run(core, requests).items()} == expected
    assert core.scheduler.num_preemptions > 2


def test_steps_in_fixed_memory(core, monkeypatch) -> None:
    """The pass that walks trees on the device leaves these to the host."""
    monkeypatch.setattr(build, "choose_backend", lambda device, wanted: PAGED)
    other = tiny_models.tiny_core(tiny_models.model_of("llama"), cuda_graphs=3)
    assert isinstance(other.target, DevicePass)
    requests = [held(str(i), by_schema(SCHEMAS[i]), "tree:8", i) for i in range(6)]
    requests.append(request("free", PROMPT, SamplingParams(max_tokens=40), "tree:8", 1))
    expected = run(core, requests)
    for name, answer in run(other, requests).items():
        assert answer.tokens == expected[name].tokens


def test_a_grammar_that_gives_up_ends_its_own_request_only(core) -> None:
    """It is found too complex after its first token; the others do not notice."""
    others = [held("a", by_schema(PERSON), "tree:8"), request("b", PROMPT, SamplingParams(), "off")]
    expected = {one.id: run(core, [one])[one.id].tokens for one in others}
    hard = held("hard", Grammar("regex", "((a{100}){100}){100}"), "tree:8")
    answers = run(core, [*others, hard])
    assert answers["hard"].last.finish_reason == "error"
    assert "grammar" in answers["hard"].last.error.message
    assert {name: answers[name].tokens for name in expected} == expected


def test_length_cuts_and_grammar_outlasts_minimum(core) -> None:
    word = Grammar("choice", '["the cat"]')
    lengths = {"cut": {"max_tokens": 1}, "short": {"min_tokens": 50}, "on": {"ignore_eos": True}}
    answers = run(core, [held(name, word, **fields) for name, fields in lengths.items()])
    assert answers["cut"].last.finish_reason == "length"
    for name in ("short", "on"):
        assert (answers[name].text, answers[name].last.finish_reason) == ("the cat", "stop")
    # Where the text could go on, it does not end before its minimum; or at all.
    many = Grammar("regex", "a+")
    bias = {TOKENIZER.convert_tokens_to_ids("<|end|>"): 100.0}
    lengths = {"off": {}, "short": {"min_tokens": 7}, "on": {"ignore_eos": True, "max_tokens": 9}}
    answers = run(
        core, [held(name, many, "tree:4", logit_bias=bias, **f) for name, f in lengths.items()]
    )
    assert [answers[name].text for name in lengths] == ["a", "a" * 7, "a" * 9]
    assert [answers[name].last.finish_reason for name in lengths] == ["stop", "stop", "length"]


def test_forced_tokens_cost_no_steps_and_forbidden_ones_no_rows(core) -> None:
    text = "a stop, another stop; and then the end."
    grammar = Grammar("choice", json.dumps([text, "another text"]))
    bias = {TOKENIZER("a s")["input_ids"][0]: 50.0}
    answers = run(
        core, [held(p, grammar, p, logit_bias=bias) for p in ("off", "tree:12", "chain:8")]
    )
    assert len({tuple(answer.tokens) for answer in answers.values()}) == 1
    for policy in ("tree:12", "chain:8"):
        counts = answers[policy].last.speculation
        assert counts.num_spec_steps <= len(answers[policy].tokens) / 3
        assert counts.num_draft_tokens == counts.num_accepted_draft_tokens
        assert counts.num_expected_draft_tokens == pytest.approx(counts.num_draft_tokens)


def test_drafts_that_mislead(core) -> None:
    truth = {}
    requests = [held(str(i), by_schema(SCHEMAS[i]), "off", i) for i in range(6)]
    for name, answer in run(core, requests).items():
        truth[name] = PROMPT + answer.tokens
    drafter = core.drafter
    core.drafter = Adversary(VOCAB, 24, False, truth)
    try:
        requests = [held(str(i), by_schema(SCHEMAS[i]), "tree:24", i) for i in range(6)]
        for name, answer in run(core, requests).items():
            assert PROMPT + answer.tokens == truth[name]
            assert answer.last.speculation.num_accepted_draft_tokens > 0
    finally:
        core.drafter = drafter


def test_held_trees_are_trees_of_what_is_allowed() -> None:
    state = Grammars(TOKENIZER, VOCAB, frozenset({END})).begin(Grammar("regex", "(ab|ac|b{9})x?"))
    a, b, c, x = (TOKENIZER.convert_tokens_to_ids(one) for one in "abcx")
    tree = tree_from_arrays(
        [x, a, b, b, x, END, c],
        [-1, -1, 1, -1, 2, 2, 1],
        np.log([0.5, 0.3, 0.2, 0.1, 0.1, 0.1, 0.05]),
    )
    left = held_to(state, tree, DraftLimits(20, 8, 4))
    paths = []
    for token, parent in zip(left.token_ids_T.tolist(), left.parents_T.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    # "x" is forbidden; "abx" and an end are the ends of the text, and so no rows.
    assert set(paths) == {(a,), (a, b), (a, c), *((b,) * n for n in range(1, 9))}
    log_probs = dict(zip(paths, left.log_probs_T.tolist(), strict=True))
    assert np.exp(log_probs[(a,)]) == pytest.approx(0.3 / 0.5)
    assert np.exp(log_probs[(b,)]) == pytest.approx(0.1 / 0.5)
    assert np.exp(log_probs[(a, b)]) == pytest.approx(0.6 * 0.2 / 0.3)
    assert log_probs[(b,) * 8] == log_probs[(b,)]
    assert len(held_to(state, tree, DraftLimits(3, 8, 4))) == 3
    assert max(map(len, paths)) == 8
    assert held_to(None, tree, DraftLimits(3, 8, 4)) is tree


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_allowed_depends_on_the_tokens_before_alone(data) -> None:
    """However they were asked for, committed, or left again."""
    grammar = by_schema(SCHEMAS[data.draw(st.integers(0, 5))])
    grammars = Grammars(TOKENIZER, VOCAB, frozenset({END}))
    state, text = grammars.begin(grammar), []
    path: list[int] = []
    for _ in range(25):
        choices = allowed(state, path)
        fresh = grammars.begin(grammar)
        assert allowed(fresh, text + path) == choices
        inner = sorted(choices - {END, *NO_SPACES}) or sorted(choices - {END})
        match data.draw(st.sampled_from(["on", "on", "on", "ask", "back", "commit"])):
            case "on" if inner:
                path.append(data.draw(st.sampled_from(inner)))
            case "ask":
                wrong = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3))
                state.goes_on([*path, *wrong])
                state.forced(path[: len(path) // 2])
            case "back":
                path = path[: data.draw(st.integers(0, len(path)))]
            case "commit" if path:
                text.append(path.pop(0))
                if state.commit(text[-1]):
                    assert not path or not state.goes_on(path)
                    return
        if path and not state.goes_on(path):
            path.pop()


def test_ends_are_unwanted_only_while_anything_else_is_left() -> None:
    grammars = Grammars(TOKENIZER, VOCAB, frozenset({END}))
    a = TOKENIZER.convert_tokens_to_ids("a")
    state = grammars.begin(Grammar("regex", "a*"))
    assert allowed(state) == {a, END}
    assert allowed(state, (), {END}) == {a}
    assert allowed(state, (), {END, a}) == {a, END}
    assert allowed(grammars.begin(Grammar("regex", "a*"), avoids_ends=True)) == {a}


def test_model_whose_tokenizer_knows_no_end() -> None:
    grammars = Grammars(TOKENIZER, VOCAB + 10, frozenset())
    state = grammars.begin(Grammar("regex", "ab?"))
    a = TOKENIZER.convert_tokens_to_ids("a")
    assert allowed(state) == {a}
    assert not state.commit(a)
    assert state.commit(TOKENIZER.convert_tokens_to_ids("b"))


def test_grammars_are_compiled_once_and_bounded_in_number(monkeypatch) -> None:
    grammars = Grammars(TOKENIZER, VOCAB, frozenset({END}))
    seen = []
    compiles = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda one: (seen.append(one), compiles(one))[1])
    for i in range(100):
        grammars.check(Grammar("regex", f"a{i}"))
        grammars.begin(Grammar("regex", f"a{i}"))
    assert len(seen) == 100
    assert len(grammars._compiled) == 64
    grammars.check(Grammar("regex", "a0"))
    assert len(seen) == 101


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": "nothing"}'),
        Grammar("json_schema", "{" * 1000),
        Grammar("json_schema", "\ud800"),
        Grammar("regex", "("),
        Grammar("lark", "start: start"),
        Grammar("lark", "start: missing"),
        Grammar("gbnf", "root ::= [a"),
        Grammar("gbnf", "root ::= " + "(" * 5000),
        Grammar("lark", "a" * 16_001),
    ],
)
def test_grammar_that_cannot_be_used_is_named(grammar) -> None:
    with pytest.raises(RequestError, match=r"\.$") as caught:
        Grammars(TOKENIZER, VOCAB, frozenset({END})).check(grammar)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert pickle.loads(pickle.dumps(grammar)) == grammar
