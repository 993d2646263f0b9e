"""Noise-coupled candidates: never worse than the better end, and probabilities that come true."""

from __future__ import annotations

import numpy as np
import pytest

from cast_drafters.coupling import _SHARPNESSES as SHARPNESSES
from cast_drafters.coupling import STRENGTHS, Candidates, Coupling

VOCAB = 200


def choices(quality: float, count: int, seed: int = 0):
    """Nodes with a drafter whose log q is log p and noise, mixed; and what the target takes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        log_p = 2.0 * rng.standard_normal(VOCAB)
        log_q = quality * log_p + (1 - quality) * 2.0 * rng.standard_normal(VOCAB)
        log_p -= np.log(np.exp(log_p).sum())
        log_q -= np.log(np.exp(log_q).sum())
        noise = rng.gumbel(size=VOCAB)
        best = np.argsort(-log_q)[:64]
        candidates = Candidates(best.astype(np.int64), log_q[best], noise[best])
        yield candidates, int((log_p + noise).argmax())


def learned(quality: float, count: int = 1500) -> Coupling:
    coupling = Coupling()
    for candidates, chosen in choices(quality, count):
        coupling.learn(candidates, chosen)
    return coupling


def test_starts_plain() -> None:
    candidates, _ = next(choices(0.5, 1))
    ranked = Coupling().rank(candidates, 4)
    best = np.argsort(-candidates.log_q_K)[:4]
    assert [token for token, _ in ranked] == candidates.tokens_K[best].tolist()
    assert [p for _, p in ranked] == pytest.approx(np.exp(candidates.log_q_K[best]).tolist())


def test_a_perfect_drafter_is_fully_coupled_and_always_right() -> None:
    coupling = learned(1.0)
    assert STRENGTHS[coupling.strength(1)] == 1.0
    found = coupling.found()
    assert found[-1, 0] > 0.85  # all but those whose token is not among the 64
    assert found[0, 0] < 0.3


def test_a_useless_drafter_is_not_coupled_for_nothing() -> None:
    """Coupling still helps here: the noise itself tells which tokens can win."""
    coupling = learned(0.0)
    found = coupling.found()[:, 3]
    assert found[coupling.strength(4)] == found.max()


@pytest.mark.parametrize("quality", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_on_new_text_no_worse_than_the_better_end(quality: float, width: int) -> None:
    coupling = learned(quality)
    hits = dict.fromkeys(("learned", "plain", "coupled"), 0)
    count = 1500
    for candidates, chosen in choices(quality, count, seed=1):
        scores = {
            "plain": candidates.log_q_K,
            "coupled": candidates.log_q_K + candidates.noise_K,
        }
        for name, score in scores.items():
            hits[name] += chosen in candidates.tokens_K[np.argsort(-score)[:width]]
        hits["learned"] += chosen in dict(coupling.rank(candidates, width))
    better = max(hits["plain"], hits["coupled"])
    noise = 2.5 * np.sqrt(count * 0.25) / 2  # of a paired difference
    assert hits["learned"] > better - noise


@pytest.mark.parametrize("quality", [0.3, 0.7, 1.0])
def test_probabilities_come_true(quality: float) -> None:
    coupling = learned(quality)
    expected, hits = 0.0, 0
    for candidates, chosen in choices(quality, 1500, seed=2):
        [(token, p)] = coupling.rank(candidates, 1)
        assert 0 <= p <= 1
        expected += p
        hits += token == chosen
    assert expected / 1500 == pytest.approx(hits / 1500, abs=0.1)


def one_by_one(coupling: Coupling, candidates: Candidates, chosen: int) -> None:
    """What `learn` does, a strength and a sharpness at a time."""
    fade = 1.0 - 1.0 / 2000.0
    coupling._found_AK *= fade
    coupling._fit_AB *= fade
    coupling._count = coupling._count * fade + 1.0
    [place] = np.nonzero(candidates.tokens_K == chosen)
    if not len(place):
        return
    for arm, strength in enumerate(STRENGTHS):
        score_K = candidates.log_q_K + strength * candidates.noise_K
        rank = int((score_K > score_K[place[0]]).sum())
        if rank < coupling._found_AK.shape[1]:
            coupling._found_AK[arm, rank] += 1.0
        for column, sharpness in enumerate(SHARPNESSES):
            weight_K = np.exp(sharpness * score_K - (sharpness * score_K).max())
            share = (weight_K / weight_K.sum())[place[0]]
            coupling._fit_AB[arm, column] += np.log(max(share, 1e-9))


def test_learns_what_is_learnt_one_strength_at_a_time() -> None:
    together, apart = Coupling(), Coupling()
    for quality in (0.0, 0.5, 1.0):
        for candidates, chosen in choices(quality, 100, seed=4):
            together.learn(candidates, chosen)
            one_by_one(apart, candidates, chosen)
    assert together._count == apart._count
    np.testing.assert_array_equal(together._found_AK, apart._found_AK)
    np.testing.assert_allclose(together._fit_AB, apart._fit_AB, rtol=1e-12)


def test_recovers_when_the_text_changes() -> None:
    coupling = learned(1.0)
    for candidates, chosen in choices(0.05, 6000, seed=3):
        coupling.learn(candidates, chosen)
    fresh = learned(0.05, 6000)
    assert coupling.strength(1) == fresh.strength(1)
