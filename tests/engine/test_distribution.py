"""What is sampled follows the target's distribution exactly, and drafts do not show in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run
from scipy.stats import chisquare

from cast_server.engine.request import SamplingParams

VOCAB_SIZE, LENGTH, NUM_SEEDS = 8, 3, 4000
PROMPT = [1, 5, 2, 2, 7]
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5, "min_p": 0.05},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_models.randomised(
        lambda: tiny_models.llama(vocab_size=VOCAB_SIZE, hidden_size=32), seed=4, std=0.15
    )


@pytest.fixture(scope="module")
def answers_logits(model) -> torch.Tensor:
    """Logits behind the prompt and behind each beginning of every possible answer."""
    with torch.inference_mode():
        answers = torch.tensor(list(itertools.product(range(VOCAB_SIZE), repeat=LENGTH)))
        ids = torch.cat([torch.tensor(PROMPT).repeat(len(answers), 1), answers], dim=1)
        return model(ids).logits[:, len(PROMPT) - 1 : -1].double()


@pytest.fixture(scope="module")
def core(model, answers_logits):
    return tiny_models.tiny_core(
        model, max_num_seqs=128, max_batched_tokens=1024, max_draft_rows=1024, kv_cache_tokens=8192
    )


def filtered(logits, temperature, top_p=1.0, top_k=VOCAB_SIZE, min_p=0.0) -> np.ndarray:
    """Probabilities, in plain Python terms: temperature, then top-k, top-p, min-p."""
    weights = np.exp((logits - logits.max()) / temperature)
    order = sorted(range(VOCAB_SIZE), key=lambda token: -weights[token])
    kept, mass = [], 0.0
    total = sum(weights[token] for token in order[:top_k])
    for token in order[:top_k]:
        if mass < top_p * total and weights[token] >= min_p:
            kept.append(token)
        mass += weights[token]
    probabilities = np.zeros(VOCAB_SIZE)
    probabilities[kept] = weights[kept] / weights[kept].sum()
    return probabilities


def joint(answers_logits, settings) -> np.ndarray:
    answers = itertools.product(range(VOCAB_SIZE), repeat=LENGTH)
    return np.array(
        [
            np.prod(
                [filtered(row, **settings)[token] for row, token in zip(rows, answer, strict=1)]
            )
            for rows, answer in zip(answers_logits.numpy(), answers, strict=True)
        ]
    )


def sample(core, settings, policy) -> list[tuple[int, ...]]:
    params = SamplingParams(max_tokens=LENGTH, ignore_eos=True, **settings)
    requests = [request(str(s), PROMPT, params, policy, seed=s) for s in range(NUM_SEEDS)]
    answers = run(core, requests, concurrency=128)
    accepted = sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())
    assert accepted > NUM_SEEDS / 4 if policy != "off" else accepted == 0
    return [tuple(answers[str(seed)].tokens) for seed in range(NUM_SEEDS)]


def p_value(samples, expected) -> float:
    """Chi-square; answers too rare to count are counted together."""
    places = np.array([np.ravel_multi_index(one, (VOCAB_SIZE,) * LENGTH) for one in samples])
    counts = np.bincount(places, minlength=len(expected))
    assert not counts[expected == 0].any(), "a token that top-p, top-k or min-p forbids"
    rare = expected * NUM_SEEDS < 8
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum()) * NUM_SEEDS
    if wanted[-1] < 1:
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    assert len(wanted) > 15
    return float(chisquare(observed, wanted).pvalue)


@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_joint_distribution_is_exact_and_trees_change_no_sample(
    core, answers_logits, settings
) -> None:
    expected = joint(answers_logits, settings)
    assert expected.sum() == pytest.approx(1.0)
    plain = sample(core, settings, "off")
    assert p_value(plain, expected) > 1e-3
    for nodes, deep in ((7, False), (5, True)):
        core.drafter = Adversary(
            VOCAB_SIZE, nodes, deep, {str(s): PROMPT + list(one) for s, one in enumerate(plain)}
        )
        assert sample(core, settings, f"tree:{nodes}") == plain


def test_guesses_that_know_nothing_of_the_answer_follow_the_distribution(
    core, answers_logits
) -> None:
    """Without the answers at hand, so that what is accepted is accepted by chance."""
    core.drafter = Adversary(VOCAB_SIZE, 7, False, {})
    samples = sample(core, SETTINGS[0], "tree:7")
    assert p_value(samples, joint(answers_logits, SETTINGS[0])) > 1e-3
