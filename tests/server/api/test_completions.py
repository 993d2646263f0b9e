"""/v1/completions, answered at once."""

from __future__ import annotations

import openai
import pytest


def complete(client: openai.OpenAI, prompt, **fields):
    return client.completions.create(model="org/tiny", prompt=prompt, **fields)


def prompts(engine) -> list[str]:
    requests = sorted(engine.requests, key=engine.copy_of)
    return [engine.tokenizer.decode(request.prompt_token_ids) for request in requests]


def test_answer_has_the_shape_that_clients_know(client, engine) -> None:
    answer = complete(client, "once")
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "org/tiny"
    [choice] = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "Hello world", "stop")
    assert choice.logprobs is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 11)


def test_prompt_may_be_a_string(client, engine) -> None:
    complete(client, "one")
    assert prompts(engine) == ["one"]


def test_prompt_may_be_many_strings(client, engine) -> None:
    complete(client, ["one", "two"])
    assert prompts(engine) == ["one", "two"]


def test_prompt_may_be_token_ids(client, engine) -> None:
    complete(client, [5, 6, 7])
    assert engine.requests[0].prompt_token_ids == (5, 6, 7)


def test_prompt_may_be_many_lists_of_token_ids(client, engine) -> None:
    complete(client, [[5, 6], [7]])
    assert {request.prompt_token_ids for request in engine.requests} == {(5, 6), (7,)}


def test_choice_index_is_prompt_times_n_plus_copy(client, engine) -> None:
    def script(request):
        prompt = engine.tokenizer.decode(request.prompt_token_ids)
        return engine.saying(f"{prompt}/{request.seed}")(request)

    engine.script = script
    answer = complete(client, ["one", "two"], n=2, seed=9)
    texts = [choice.text for choice in answer.choices]
    assert [text.split("/")[0] for text in texts] == ["one", "one", "two", "two"]
    assert texts[0] == "one/9"
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_usage_counts_each_prompt_once(client, engine) -> None:
    def script(request):
        return engine.saying("ab", num_cached_tokens=len(request.prompt_token_ids) - 1)(request)

    engine.script = script
    usage = complete(client, ["four", "sixsix"], n=3).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 12, 22)
    assert usage.prompt_tokens_details.cached_tokens == 3 + 5


def test_sixteen_tokens_by_default(client, engine) -> None:
    complete(client, "one")
    assert engine.requests[0].params.max_tokens == 16


def test_default_length_is_cut_to_the_context(client, engine) -> None:
    complete(client, "x" * (engine.max_model_len - 3))
    assert engine.requests[0].params.max_tokens == 3


def test_best_of_n_is_n(client, engine) -> None:
    assert len(complete(client, "one", n=2, best_of=2).choices) == 2


def test_one_seed_gives_the_same_seeds_again_and_different_copies(client, engine) -> None:
    complete(client, "one", n=4, seed=123)
    complete(client, "one", n=4, seed=123)
    seeds = [request.seed for request in engine.requests]
    assert sorted(seeds[:4]) == sorted(seeds[4:])
    assert len(set(seeds)) == 4
    assert 123 in seeds


def test_seeds_of_copies_do_not_depend_on_n(client, engine) -> None:
    complete(client, "one", n=2, seed=1)
    complete(client, "one", n=3, seed=1)
    assert {r.seed for r in engine.requests[:2]} < {r.seed for r in engine.requests[2:]}


def test_without_a_seed_every_answer_draws_one(client, engine) -> None:
    complete(client, ["one", "two"], n=2)
    complete(client, ["one", "two"], n=2)
    seeds = {request.seed for request in engine.requests}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_int64_is_a_seed(client, engine, seed) -> None:
    complete(client, "one", seed=seed)
    assert engine.requests[0].seed == seed % 2**63
