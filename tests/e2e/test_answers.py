"""What the official client gets from the real model: answers, streams, counts, speculation."""

from __future__ import annotations

import pytest
from e2e.serving import MODEL

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
# Repeats itself, so that the drafter has something to find.
COUNTING = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count: 1, 2, 3, 1, 2, 3, 1, 2, 3. Go on."}],
    "temperature": 0.7,
    "seed": 5,
    "max_tokens": 32,
}
METRICS = {
    "num_spec_steps",
    "num_draft_tokens",
    "num_accepted_draft_tokens",
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "acceptance_histogram",
    "num_expected_draft_tokens",
    "predicted_seconds",
    "seconds",
    "policy",
    "num_spec_tokens",
    "sources",
}


def with_policy(policy: str) -> dict[str, object]:
    return {"extra_body": {"speculation": {"policy": policy}}}


def streamed_chat(chunks) -> str:
    pieces = (choice.delta.content for chunk in chunks for choice in chunk.choices)
    return "".join(piece or "" for piece in pieces)


def streamed_text(chunks) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices)


def test_a_chat_gets_a_real_answer(client) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    choice, usage = answer.choices[0], answer.usage
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert usage.prompt_tokens > 5
    assert usage.completion_tokens > 2
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_streamed_chat_is_the_same(client) -> None:
    ask = {"model": MODEL, "messages": QUESTION, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    usage = {"include_usage": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=usage))
    assert streamed_chat(chunks) == whole.choices[0].message.content
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert set(chunks[-1].metrics["speculative_decoding"]) == METRICS


def test_a_streamed_completion_is_the_same(client) -> None:
    whole = client.completions.create(**STORY)
    chunks = list(client.completions.create(**STORY, stream=True))
    assert streamed_text(chunks) == whole.choices[0].text
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == STORY["max_tokens"]


def test_a_seeded_text_is_the_same_with_and_without_speculation(client) -> None:
    answers = {
        policy: client.chat.completions.create(**COUNTING, **with_policy(policy))
        for policy in ("off", "chain:3", "tree:8")
    }
    assert len({answer.choices[0].message.content for answer in answers.values()}) == 1
    off, chain, tree = (
        answers[policy].metrics["speculative_decoding"] for policy in ("off", "chain:3", "tree:8")
    )
    assert set(off) == set(chain) == set(tree) == METRICS
    assert off["num_draft_tokens"] == 0
    assert off["mean_acceptance_length"] == 1.0
    assert off["draft_acceptance_rate"] is None
    for metrics in (chain, tree):
        assert 0 < metrics["num_accepted_draft_tokens"] <= metrics["num_draft_tokens"]
        assert sum(metrics["acceptance_histogram"]) == metrics["num_spec_steps"]
        assert metrics["num_spec_steps"] < off["num_spec_steps"]


def test_a_seeded_completion_does_not_depend_on_speculation_either(client) -> None:
    ask = STORY | {"temperature": 1.0, "seed": 11, "top_p": 0.9}
    off = client.completions.create(**ask, **with_policy("off")).choices[0].text
    tree = client.completions.create(**ask, **with_policy("tree:8")).choices[0].text
    other = client.completions.create(**(ask | {"seed": 12})).choices[0].text
    assert off == tree
    assert other != off


def test_the_last_chunk_tells_what_speculation_did(client) -> None:
    chunks = list(client.chat.completions.create(**COUNTING, stream=True, **with_policy("tree:8")))
    whole = client.chat.completions.create(**COUNTING, **with_policy("tree:8"))
    metrics = chunks[-1].metrics["speculative_decoding"]
    assert set(metrics) == METRICS
    again = whole.metrics["speculative_decoding"]
    for one in (metrics, again):  # not equal: by the second time the server has learnt
        assert one["policy"] == "tree:8"
        assert min(one["predicted_seconds"], one["seconds"], one["num_expected_draft_tokens"]) > 0
        committed = one["num_spec_steps"] + one["num_accepted_draft_tokens"]
        assert committed >= whole.usage.completion_tokens - 1
    assert all(getattr(chunk, "metrics", None) is None for chunk in chunks[:-1])
    assert streamed_chat(chunks) == whole.choices[0].message.content


def test_the_first_of_several_answers_is_the_only_one_of_a_single_request(client) -> None:
    ask = STORY | {"temperature": 1.0, "seed": 3}
    one = client.completions.create(**ask)
    two = client.completions.create(**ask, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one.choices[0].text
    assert two.choices[1].text != one.choices[0].text
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(client, stream) -> None:
    text = client.completions.create(**STORY).choices[0].text
    stop = text[20:27]  # in the middle of words, so that no token boundary helps
    answer = client.completions.create(**STORY, stop=[stop], stream=stream)
    chunks = list(answer) if stream else [answer]
    assert streamed_text(chunks) == text[: text.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs_spell_the_text_and_do_not_depend_on_speculation(client) -> None:
    ask = COUNTING | {"logprobs": True, "top_logprobs": 3}
    off, tree = (
        client.chat.completions.create(**ask, **with_policy(policy)).choices[0]
        for policy in ("off", "tree:8")
    )
    spelled = b"".join(bytes(token.bytes) for token in off.logprobs.content).decode()
    assert spelled.removesuffix("<|im_end|>") == off.message.content
    for token in off.logprobs.content:
        likeliest = [top.logprob for top in token.top_logprobs]
        assert len(likeliest) == 3
        assert likeliest == sorted(likeliest, reverse=True)
        assert token.logprob <= likeliest[0] <= 0
    assert [token.logprob for token in tree.logprobs.content] == pytest.approx(
        [token.logprob for token in off.logprobs.content], abs=1e-3
    )


def test_what_is_expected_comes_sooner_and_is_counted(client) -> None:
    ask = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 48}
    without = client.chat.completions.create(**ask)
    text = without.choices[0].message.content
    expected = {"prediction": {"type": "content", "content": text}}
    whole = client.chat.completions.create(**ask, **expected)
    usage = {"include_usage": True}
    *_, last = client.chat.completions.create(**ask, **expected, stream=True, stream_options=usage)
    assert whole.choices[0].message.content == text
    for answer in (whole, last):
        details = answer.usage.completion_tokens_details
        metrics = answer.metrics["speculative_decoding"]
        source = metrics["sources"]["prediction"]
        assert details.accepted_prediction_tokens == source["num_accepted_draft_tokens"] > 0
        drafted = details.accepted_prediction_tokens + details.rejected_prediction_tokens
        assert drafted == source["num_draft_tokens"]
        assert metrics["num_spec_steps"] < answer.usage.completion_tokens - 1
        assert len(metrics["acceptance_histogram"]) == metrics["num_spec_tokens"] + 1
    assert without.usage.completion_tokens_details.accepted_prediction_tokens is None
