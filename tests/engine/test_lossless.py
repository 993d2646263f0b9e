"""Promise 1 on the real model, float32: speculation never changes a token."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from engine.driving import Adversary, request, run

from cast_bench.prompts import PROMPTS
from cast_drafters.registry import create_drafter
from cast_server.engine.request import SamplingParams

SYSTEM = (
    "You are a careful assistant in a public library. You answer briefly and in plain words, you "
    "never invent sources, and where you are not sure you say so and name a shelf to look at. "
)


@pytest.fixture(scope="module")
def prompts(plain_model) -> list[list[int]]:
    """24 prompts; every third shares a long beginning, one is longer than several chunks."""
    _, tokenizer = plain_model
    texts = [PROMPTS[i] if i % 3 else SYSTEM * 2 + PROMPTS[i] for i in range(23)]
    texts.append(" ".join(PROMPTS) + " Which of these questions is about bees?")
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in texts
    ]


@dataclass(frozen=True)
class Scale:
    """Which prompts, and how many tokens of each answer."""

    names: tuple[int, ...]
    length: int


SMALL = Scale((0, 1, 6, 9, 12, 16, 21, 23), 48)
FULL = Scale(tuple(range(24)), 128)
SCALES = [SMALL, pytest.param(FULL, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def answers_of(plain_model, prompts):
    """What transformers' own `generate` answers, in left-padded batches."""
    model, tokenizer = plain_model
    tokenizer.padding_side = "left"

    @functools.cache
    def answer(scale: Scale) -> dict[int, list[int]]:
        answers = {}
        for begin in range(0, len(scale.names), 12):
            names = scale.names[begin : begin + 12]
            batch = tokenizer.pad({"input_ids": [prompts[i] for i in names]}, return_tensors="pt")
            with torch.inference_mode():
                out = model.generate(**batch, do_sample=False, max_new_tokens=scale.length)
            for name, row in zip(
                names, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True
            ):
                ends = tokenizer.eos_token_id in row
                answers[name] = row[: row.index(tokenizer.eos_token_id) + 1] if ends else row
        return answers

    return answer


def greedy(prompts, policy, scale: Scale):
    params = SamplingParams(max_tokens=scale.length, temperature=0.0)
    return [request(str(i), prompts[i], params, policy) for i in scale.names]


def assert_identical(plain_model, prompts, expected, answers) -> None:
    """A difference is a bug unless the two tokens are within rounding of each other."""
    model, _ = plain_model
    for name, answer in answers.items():
        right = expected[int(name)]
        if answer.tokens == right:
            continue
        pairs = zip(answer.tokens, right, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        assert first is not None, f"prompt {name}: {len(answer.tokens)} tokens, not {len(right)}"
        ids = torch.tensor([prompts[int(name)] + right[:first]])
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        margin = float(logits[right[first]] - logits[answer.tokens[first]])
        print(f"near tie: prompt {name}, token {first}, margin {margin:.2g}")
        assert abs(margin) < 1e-3, f"prompt {name} differs at {first} by a margin of {margin}"


def accepted(answers) -> int:
    return sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("scale", SCALES)
def test_plain_decoding_equals_generate(
    make_core, plain_model, prompts, answers_of, scale, concurrency
) -> None:
    answers = run(make_core(), greedy(prompts, "off", scale), concurrency)
    assert_identical(plain_model, prompts, answers_of(scale), answers)
    assert all(a.last.speculation.num_draft_tokens == 0 for a in answers.values())


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("drafter", "policy", "gain"), [("ngram", "tree:8", 1), ("eagle", "tree:12", 2)]
)
@pytest.mark.parametrize("scale", SCALES)
def test_trees_equal_generate_with_chunks_and_prefix_hits(
    make_core, plain_model, prompts, answers_of, scale, drafter, policy, gain, concurrency
) -> None:
    core = make_core(max_batched_tokens=96, drafter=drafter)
    answers = run(core, greedy(prompts, policy, scale), concurrency)
    assert_identical(plain_model, prompts, answers_of(scale), answers)
    assert max(len(prompts[i]) for i in scale.names) > 3 * 96
    assert sum(a.last.num_cached_tokens > 0 for a in answers.values()) >= len(scale.names) / 6
    assert accepted(answers) > gain * scale.length


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(("nodes", "deep"), [(12, True), (40, False)])
@pytest.mark.parametrize("scale", SCALES)
def test_adversarial_trees_equal_generate(
    make_core, plain_model, prompts, answers_of, scale, nodes, deep, concurrency
) -> None:
    core = make_core(max_draft_rows=512)
    truth = {str(i): prompts[i] + tokens for i, tokens in answers_of(scale).items()}
    core.drafter = Adversary(core.runner.vocab_size, nodes, deep, truth)
    answers = run(core, greedy(prompts, f"tree:{nodes}", scale), concurrency)
    assert_identical(plain_model, prompts, answers_of(scale), answers)
    assert accepted(answers) > 2 * scale.length


def test_preemption_changes_nothing(make_core, plain_model, prompts, answers_of) -> None:
    core = make_core(kv_cache_tokens=512, max_model_len=512, drafter="eagle")
    scale = Scale((1, 4, 5, 7, 8, 10, 11, 13), 96)
    answers = run(core, greedy(prompts, "tree:4", scale))
    assert_identical(plain_model, prompts, answers_of(scale), answers)
    assert core.scheduler.num_preemptions > 0


MIXES = {
    "warm": {"temperature": 0.7},
    "hot": {"temperature": 1.3, "top_p": 0.9},
    "min-p": {"temperature": 1.3, "min_p": 0.1, "presence_penalty": 0.6},
    "penalties": {"temperature": 0.7, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
    "biased": {"temperature": 0.7, "top_k": 30, "logit_bias": {253: 2.0, 29: -100.0}},
    "all": {"temperature": 1.0, "top_k": 200, "top_p": 0.95, "min_p": 0.02, "min_tokens": 30}
    | {"presence_penalty": 0.5, "repetition_penalty": 1.1, "stop": ("the ",)},
    "greedy-penalties": {"temperature": 0.0, "repetition_penalty": 1.3, "logprobs": 3},
    "logprobs": {"temperature": 0.9, "logprobs": 5},
}


def test_seeded_sampling_is_the_same_with_and_without_trees(make_core, prompts) -> None:
    core = make_core(max_draft_rows=256, drafter="eagle")
    requests = {
        policy: [
            request(name, prompts[i], SamplingParams(max_tokens=48, **mix), policy, seed=1000 + i)
            for i, (name, mix) in enumerate(MIXES.items())
        ]
        for policy in ("off", "tree:8", "tree:24")
    }
    plain = run(core, requests["off"], concurrency=1)
    batched = run(core, requests["off"])
    eagle = run(core, requests["tree:8"])
    core.runner.watch(None)
    core.drafter = create_drafter("ngram")
    ngram = run(core, requests["tree:8"])
    truth = {r.id: [*r.prompt_token_ids, *plain[r.id].tokens] for r in requests["off"]}
    core.drafter = Adversary(core.runner.vocab_size, 24, False, truth)
    misled = run(core, requests["tree:24"])
    assert accepted(misled) > 60
    assert accepted(eagle) > 60
    for name, answer in plain.items():
        for other in (batched, eagle, ngram, misled):
            assert other[name].tokens == answer.tokens, name
            assert other[name].text == answer.text, name
            for one, two in zip(answer.logprobs, other[name].logprobs, strict=True):
                assert one.token_id == two.token_id
                assert one.logprob == pytest.approx(two.logprob, abs=1e-4)


def test_logprobs_equal_a_plain_forward_pass(make_core, plain_model, prompts) -> None:
    model, _ = plain_model
    params = SamplingParams(max_tokens=40, temperature=0.8, logprobs=4)
    core = make_core()
    answer = run(core, [request("a", prompts[5], params, "tree:8", seed=3)])["a"]
    ids = torch.tensor([prompts[5] + answer.tokens])
    with torch.inference_mode():
        logprobs = model(ids).logits[0].log_softmax(-1)[len(prompts[5]) - 1 : -1]
    assert len(answer.logprobs) == len(answer.tokens)
    for row, token_id, told in zip(logprobs, answer.tokens, answer.logprobs, strict=True):
        assert told.token_id == token_id
        assert told.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        best = row.topk(4)
        assert [i for i, _ in told.top] == best.indices.tolist()
        assert [p for _, p in told.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_stop_inside_an_accepted_path_ends_there(make_core, plain_model, prompts) -> None:
    _, tokenizer = plain_model
    core = make_core()
    base = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, logprobs=0)
    full = run(core, [request("a", prompts[4], base)])["a"]
    core.drafter = Adversary(core.runner.vocab_size, 30, False, {"a": prompts[4] + full.tokens})
    stop_id = full.tokens[20]
    first = full.tokens.index(stop_id)
    params = SamplingParams(
        max_tokens=60, temperature=0.0, ignore_eos=True, logprobs=0, stop_token_ids=(stop_id,)
    )
    answer = run(core, [request("a", prompts[4], params, "tree:30")])["a"]
    assert answer.tokens == full.tokens[: first + 1]
    assert (answer.last.finish_reason, answer.last.stop_reason) == ("stop", stop_id)
    assert answer.last.num_output_tokens == len(answer.logprobs) == first + 1
    assert answer.text == tokenizer.decode(full.tokens[:first])
    word = full.text[60:66]
    params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, stop=(word,))
    answer = run(core, [request("a", prompts[4], params, "tree:30")])["a"]
    assert answer.text == full.text[: full.text.index(word)]
    assert answer.last.stop_reason == word
    assert answer.tokens == full.tokens[: len(answer.tokens)]
    assert word in tokenizer.decode(answer.tokens)
    assert word not in tokenizer.decode(answer.tokens[:-1])
