"""Parameters are evaluated for each node's own prefix: a path counts as if it were committed."""

from __future__ import annotations

import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.policy import OFF
from cast_server.engine.detokenizer import TextStream
from cast_server.engine.request import Request, SamplingParams
from cast_server.engine.sampler import Position, choose
from cast_server.engine.sequence import Sequence

VOCAB = 12
PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.5, -1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.9]),
        "repetition_penalty": st.sampled_from([1.0, 1.6]),
        "min_tokens": st.integers(0, 6),
        "top_k": st.sampled_from([0, 4]),
        "top_p": st.sampled_from([1.0, 0.8]),
    }
)


def sequence(params: SamplingParams, prompt: list[int], output: list[int]) -> Sequence:
    request = Request("a", tuple(prompt), params, seed=5)
    text = TextStream(tiny_models.byte_level_tokenizer(), params)
    made = Sequence(request, OFF, frozenset({3, 4}), text)
    for token in output:
        made.token_ids.append(token)
        made.output_counts[token] += 1
    return made


@settings(deadline=None, max_examples=200)
@given(
    PARAMS,
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    st.lists(st.integers(0, VOCAB - 1), max_size=4),
    st.lists(st.integers(0, VOCAB - 1), max_size=5),
    st.integers(0, 999),
)
def test_a_path_counts_as_committed(changes, prompt, output, path, seed) -> None:
    params = SamplingParams(max_tokens=50, **changes)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, VOCAB, generator=generator)
    drafted = Position(sequence(params, prompt, output), tuple(path))
    committed = Position(sequence(params, prompt, [*output, *path]))
    assert choose(logits, [drafted]) == choose(logits, [committed])


@settings(deadline=None, max_examples=50)
@given(st.lists(PARAMS, min_size=1, max_size=5), st.integers(0, 999))
def test_company_changes_nothing(many, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(many), VOCAB, generator=generator)
    before = logits.clone()
    positions = [
        Position(sequence(SamplingParams(max_tokens=50, **changes), [1, 2], [2, 5]), (7,))
        for changes in many
    ]
    together = choose(logits, positions)
    assert torch.equal(logits, before)
    alone = [choose(logits[i : i + 1], [one])[0] for i, one in enumerate(positions)]
    assert together == alone


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 9999), st.sampled_from([0.05, 0.5, 0.9]), st.sampled_from([0, 4]))
def test_top_p_keeps_the_likeliest_that_reach_it_and_no_more(seed, top_p, top_k) -> None:
    """Against shares in float64, away from the edge; of those that top-k leaves, if it is there."""
    logits = 3 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))
    ranked = logits[0].double().sort(descending=True)
    share = ranked.values[: top_k or VOCAB].softmax(0)
    before = share.cumsum(0) - share
    allowed = set(ranked.indices[: len(before)][before < top_p + 1e-5].tolist())
    params = SamplingParams(max_tokens=500, temperature=1.0, top_p=top_p, top_k=top_k)
    position = Position(sequence(params, [1], []))
    paths = [Position(position.sequence, (0,) * length) for length in range(200)]
    chosen = set(choose(logits.expand(200, -1), paths))
    assert chosen <= allowed
    sure = before < top_p - 1e-5
    kept = (share[sure] / share[sure].sum() > 0.1).nonzero()[:, 0]
    assert set(ranked.indices[: len(before)][sure][kept].tolist()) <= chosen
