"""/v1/chat/completions, answered at once."""

from __future__ import annotations

import openai
import pytest

from cast_server.engine.request import SpeculationStats

USER = {"role": "user", "content": "hi"}


def prompt_text(engine) -> str:
    return engine.tokenizer.decode(engine.requests[-1].prompt_token_ids)


def ask(client: openai.OpenAI, **fields):
    return client.chat.completions.create(**{"model": "org/tiny", "messages": [USER], **fields})


def test_answer_has_the_shape_that_clients_know(client, engine) -> None:
    answer = ask(client)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "org/tiny"
    assert answer.created > 1_600_000_000
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello world")


def test_usage_counts_prompt_once_and_completions_summed(client, engine) -> None:
    engine.script = engine.saying("Hello", " world", num_cached_tokens=5)
    usage = ask(client, n=3).usage
    prompt = len(engine.requests[0].prompt_token_ids)
    assert usage.prompt_tokens == prompt
    assert usage.completion_tokens == 33
    assert usage.total_tokens == prompt + 33
    assert usage.prompt_tokens_details.cached_tokens == 5


def test_finish_reason_and_stop_reason_are_the_engines(client, engine) -> None:
    engine.script = engine.saying("cut", finish="length")
    assert ask(client).choices[0].finish_reason == "length"
    engine.script = engine.saying("cut", stop_reason="END")
    assert ask(client).choices[0].stop_reason == "END"


def test_copies_come_in_order_whoever_ends_first(client, engine) -> None:
    def script(request):
        copy = engine.copy_of(request)
        return engine.saying(f"copy {copy}", delay=lambda _: 0.02 * (3 - copy))(request)

    engine.script = script
    answer = ask(client, n=3)
    assert [(c.index, c.message.content) for c in answer.choices] == [
        (0, "copy 0"),
        (1, "copy 1"),
        (2, "copy 2"),
    ]


def test_messages_go_through_the_chat_template(client, engine) -> None:
    ask(client, messages=[{"role": "system", "content": "be brief"}, USER])
    assert prompt_text(engine) == "<system>be brief<|end|><user>hi<|end|><assistant>"


def test_a_last_message_of_the_assistant_is_followed_by_a_new_one(client, engine) -> None:
    ask(client, messages=[USER, {"role": "assistant", "content": "ho"}])
    assert prompt_text(engine).endswith("<assistant>ho<|end|><assistant>")


def test_a_last_message_of_the_assistant_may_be_continued(client, engine) -> None:
    messages = [USER, {"role": "assistant", "content": "ho, "}]
    ask(client, messages=messages, extra_body={"continue_final_message": True})
    assert prompt_text(engine).endswith("<user>hi<|end|><assistant>ho, ")


def test_only_the_assistants_words_can_be_continued(client) -> None:
    for messages in ([USER], [USER, {"role": "assistant", "content": ""}]):
        with pytest.raises(openai.BadRequestError, match="last message of the assistant"):
            ask(client, messages=messages, extra_body={"continue_final_message": True})


def test_the_beginning_of_the_answer_may_be_left_out(client, engine) -> None:
    ask(client, extra_body={"add_generation_prompt": False})
    assert prompt_text(engine) == "<user>hi<|end|>"


def test_developer_is_the_system_role(client, engine) -> None:
    ask(client, messages=[{"role": "developer", "content": "be brief"}, USER])
    assert prompt_text(engine).startswith("<system>be brief")


def test_text_parts_are_joined(client, engine) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    ask(client, messages=[{"role": "user", "content": parts}])
    assert prompt_text(engine).startswith("<user>one\ntwo<|end|>")


def test_an_assistant_message_may_lack_content(client, engine) -> None:
    ask(client, messages=[USER, {"role": "assistant", "content": None}, USER])
    assert "<assistant><|end|>" in prompt_text(engine)


def test_special_tokens_of_the_template_are_special(client, engine) -> None:
    ask(client)
    assert engine.tokenizer.eos_token_id in engine.requests[0].prompt_token_ids


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_length_of_the_answer_has_two_names(client, engine, field) -> None:
    ask(client, **{field: 7})
    assert engine.requests[0].params.max_tokens == 7


def test_without_max_tokens_an_answer_may_fill_the_context(client, engine) -> None:
    ask(client)
    request = engine.requests[0]
    assert request.params.max_tokens == engine.max_model_len - len(request.prompt_token_ids)


def test_speculation_metrics_are_summed_over_choices(client, engine) -> None:
    def script(request):
        first = engine.copy_of(request) == 0
        stats = SpeculationStats(1, 2, 1, (0, 1), 0.5, 0.25, 0.125, "cast:32")
        if first:
            stats = SpeculationStats(4, 8, 2, (3, 0, 1), 2.25, 1.0, 1.5, "cast:32", 3)
        return engine.saying("x", speculation=stats)(request)

    engine.script = script
    answer = ask(client, n=2)
    assert answer.metrics["speculative_decoding"] == {
        "num_spec_steps": 5,
        "num_draft_tokens": 10,
        "num_accepted_draft_tokens": 3,
        "mean_acceptance_length": 1.6,
        "draft_acceptance_rate": 0.3,
        "acceptance_histogram": [3, 1, 1, 0],
        "num_expected_draft_tokens": 2.75,
        "predicted_seconds": 1.25,
        "seconds": 1.625,
        "policy": "cast:32",
        "num_spec_tokens": 3,
        "sources": {},
    }


def test_speculation_means_are_null_before_anything_was_drafted(client, engine) -> None:
    metrics = ask(client).metrics["speculative_decoding"]
    assert metrics["mean_acceptance_length"] is None
    assert metrics["draft_acceptance_rate"] is None


def test_non_ascii_answers_are_sent_as_utf8(client, http, engine) -> None:
    engine.script = engine.saying("naïve ", "🦜\u2028")
    body = {"messages": [USER]}
    raw = http.post("/v1/chat/completions", json=body).content
    assert "naïve 🦜".encode() in raw
    assert ask(client).choices[0].message.content == "naïve 🦜\u2028"


def test_model_may_be_left_out(http, engine) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": [USER]})
    assert answer.json()["model"] == "org/tiny"
