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
