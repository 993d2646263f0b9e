"""Figures of arXiv 2401.17139 that follow from others it gives, and an identity of 2512.18730."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from cast_server.evaluators.measures.multimodal import image_reduction_ratio, image_text_alignment

# eRanks: vision encoder, connector, image alone, text alone, both; then the two ratios as printed.
MULTIMODAL = {
    "LLaVA-1.5, detail_23k": ((18.34, 11.28, 45.62, 74.21, 76.34), 0.3850, 0.8566),
    "LLaVA-1.5, cc_sbu_align": ((9.00, 5.20, 28.47, 59.00, 47.63), 0.4222, 0.7618),
    "MiniGPT-v2, detail_23k": ((90.59, 55.70, 58.50, 63.63, 108.53), 0.3851, 0.7084),
    "MiniGPT-v2, cc_sbu_align": ((74.79, 46.15, 48.68, 52.68, 93.29), 0.3829, 0.6955),
    "LLaVA-1.5, rotated": ((19.20, 12.31, 46.54, 74.21, 77.69), 0.3588, 0.8514),
}
# Does not follow from the eRanks beside it: (28.47 + 59.00 + 47.63) / 3 / 59.00 is 0.7633.
MISPRINTED = {"LLaVA-1.5, cc_sbu_align": 0.7633}

# Diff-eRank and reduced loss of OPT 125M, 1.3B, 2.7B, 6.7B and 13B.
OPT = {
    "dolly-15k": ((54.35, 76.39, 83.02, 89.60, 89.81), (7.6838, 8.322, 8.4471, 8.5961, 8.6505)),
    "Wikipedia": (
        (83.55, 136.20, 148.59, 161.09, 162.88),
        (7.8671, 8.4575, 8.5746, 8.7009, 8.7581),
    ),
    "openwebtext2": (
        (103.23, 184.76, 205.48, 254.30, 262.70),
        (7.8090, 8.3601, 8.4697, 8.5915, 8.6396),
    ),
    "hh-rlhf": ((53.02, 76.44, 82.82, 90.41, 93.30), (8.1041, 8.4800, 8.5242, 8.5914, 8.6928)),
}


@pytest.mark.parametrize("model", MULTIMODAL)
def test_multimodal_ratios(model) -> None:
    (encoder, connector, image, text, both), reduction, alignment = MULTIMODAL[model]
    assert image_reduction_ratio(encoder, connector) == pytest.approx(reduction, abs=1e-4)
    found = image_text_alignment(image, text, both)
    assert found == pytest.approx(MISPRINTED.get(model, alignment), abs=1e-4)


def test_alignment_of_equal_eranks_says_nothing() -> None:
    assert image_text_alignment(7, 7, 7) == pytest.approx(1)
    assert image_text_alignment(1e-9, 1e-9, 50) == pytest.approx(1 / 3)


@pytest.mark.parametrize("texts", OPT)
def test_larger_models_rank_the_same_by_both(texts) -> None:
    diff_eranks, losses = OPT[texts]
    assert stats.spearmanr(diff_eranks, losses).statistic == pytest.approx(1)


@pytest.mark.parametrize(
    ("texts", "least"),
    [("dolly-15k", 0.98), ("Wikipedia", 0.975), ("openwebtext2", 0.99), ("hh-rlhf", 0.99)],
)
def test_and_by_their_width_alone(texts, least) -> None:
    """The confound: Diff-eRank is nearly a linear function of the logarithm of the hidden size."""
    log_widths = [math.log(width) for width in (768, 2048, 2560, 4096, 5120)]
    assert stats.pearsonr(OPT[texts][0], log_widths).statistic > least


def test_best_policy_and_its_regret() -> None:
    def divergence(a: float, b: float) -> float:
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    start, beta, share = 0.2, 0.5, 0.35
    odds = start * math.exp(1 / beta)
    best = odds / (odds + 1 - start)
    objective = [p - beta * divergence(p, start) for p in (best, share)]
    regret = beta * divergence(share, best)
    assert regret == pytest.approx(0.0920574647, abs=1e-10)
    assert objective[0] - objective[1] == pytest.approx(regret, abs=1e-12)
