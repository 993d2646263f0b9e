"""EAGLE-1/2 heads against formulas in float64, and what makes them impossible to serve."""

from __future__ import annotations

import dataclasses
import functools
import types

import numpy as np
import plain_head as plain
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cast_drafters.base import TargetParts
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.served import HeadRows, ServedHead, _scaled
from cast_drafters.eagle.served_v1 import ServedHeadV1
from cast_kernels.tree_attention import SequenceRows

EPS = 1e-6


def target(norm_name="norm", **parts) -> TargetParts:
    """One whose final norm and output rows are there, and nothing else."""
    torch.manual_seed(3)
    norm = torch.nn.RMSNorm(plain.WIDTH, EPS)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    lm_head = torch.nn.Linear(plain.WIDTH, plain.VOCAB, bias=False)
    decoder = types.SimpleNamespace(**{norm_name: norm})
    found = {"get_decoder": lambda: decoder, "get_output_embeddings": lambda: lm_head} | parts
    return dataclasses.replace(plain.target(), model=types.SimpleNamespace(**found))


def served(**changes) -> tuple[ServedHeadV1, plain.PlainV1, TargetParts]:
    config, parts = plain.config_v1(**changes), target()
    tensors = plain.weights_v1(config)
    lm_head = parts.model.get_output_embeddings().weight.detach()
    head = ServedHeadV1(config, tensors, parts, 8)
    head._kv_cache_S2KD.fill_(torch.nan)
    return head, plain.PlainV1(config, tensors, parts.embedding_VE, lm_head), parts


def assert_close(got: torch.Tensor, right: torch.Tensor) -> None:
    assert float((got.double() - right).norm() / right.norm()) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"has_fc_bias": False, "has_qkv_bias": True},
        {"num_key_heads": 4, "head_dim": 8},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
    ],
)
@torch.inference_mode()
def test_chain_and_tree_rows_equal_the_formulas(changes) -> None:
    head, right, parts = served(**changes)
    tokens, last = torch.randint(plain.VOCAB, (9,)), torch.randn(9, plain.WIDTH) * 3
    slots = np.random.default_rng(0).permutation(96)[:9]
    head.fuse(torch.from_numpy(slots), [last])
    chain = SequenceRows(slots[1:], np.tri(8, dtype=np.bool_), np.arange(8))
    rows = HeadRows(tokens[1:].numpy(), np.arange(8), slots[1:], [chain])
    out = head.forward(rows, head.fused(slots[:-1]))

    # Two children of the last row, next to each other, that do not see each other.
    keys = np.concatenate([slots[1:], [96, 97]])
    branches = SequenceRows(keys, np.eye(2, dtype=np.bool_), np.ones(2, np.int64))
    rows = HeadRows(np.array([3, 5]), np.array([8, 8]), np.array([96, 97]), [branches])
    out = torch.cat([out, head.forward(rows, head.next(out[-1:]).expand(2, -1))])

    normed = right.fuse([parts.model.get_decoder().norm(last[:-1])])
    sees = torch.ones(10, 10, dtype=torch.bool).tril()
    sees[9, 8] = False
    seen = right.forward(tokens[1:], normed, torch.arange(8), sees[:8, :8])
    states = torch.cat([normed, seen[-1:], seen[-1:]])
    positions = torch.tensor([*range(8), 8, 8])
    all_tokens = torch.cat([tokens[1:], torch.tensor([3, 5])])
    expected = right.forward(all_tokens, states, positions, sees)
    assert_close(out, expected)
    assert_close(head.log_probs(out), right.log_probs(expected))


def test_reads_after_the_last_layer_and_drafts_every_token() -> None:
    head, _, _ = served()
    assert head.layer_ids == (plain.LAYERS,)
    assert head.draft_token_ids.tolist() == list(range(plain.VOCAB))


@pytest.mark.parametrize("norm_name", ["norm", "ln_f"])
def test_embeddings_in_the_file_are_the_targets(tmp_path, norm_name) -> None:
    """So their reference loader does it, and files in half precision abound."""
    config = plain.config_v1()
    tensors = plain.weights_v1(config)
    strange = {"embed_tokens.weight": torch.randn(plain.VOCAB, plain.WIDTH)}
    plain.write_v1(tmp_path, config, tensors | strange)
    parts = target(norm_name)
    head = EagleDrafter.for_target(parts, tmp_path, sources=()).head
    assert type(head) is ServedHeadV1
    assert torch.equal(head._embedding_VE, parts.embedding_VE)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"norm_name": "somewhere"}, "final norm of SimpleNamespace"),
        ({"get_output_embeddings": lambda: None}, "SimpleNamespace has no output embeddings"),
    ],
)
def test_targets_without_what_the_head_borrows(tmp_path, parts, said) -> None:
    config = plain.config_v1()
    plain.write_v1(tmp_path, config, plain.weights_v1(config))
    with pytest.raises(ValueError, match=said) as caught:
        EagleDrafter.for_target(target(**parts), tmp_path)
    assert str(caught.value).endswith(".")


LLAMA_3 = {
    "type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FREQUENCIES = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2.5}, LLAMA_3])
def test_rope_scaling_is_that_of_transformers(scaling) -> None:
    fields = {name: value for name, value in scaling.items() if name != "type"}
    rope = {"rope_type": scaling["type"], "rope_theta": 10000.0, **fields}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope)
    right, _ = ROPE_INIT_FUNCTIONS[scaling["type"]](config, torch.device("cpu"))
    assert torch.allclose(_scaled(FREQUENCIES, scaling).float(), right.float(), rtol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ({"type": "yarn", "factor": 2.0}, "'yarn'; only linear and llama3"),
        ({"type": "dynamic", "factor": 2.0}, "'dynamic'; only linear and llama3"),
        ({"type": "linear"}, "'linear' needs a positive number as factor, got None"),
        ({"type": "linear", "factor": 0}, "factor, got 0"),
        ({"type": "linear", "factor": "2"}, "factor, got '2'"),
        (LLAMA_3 | {"factor": float("nan")}, "factor, got nan"),
        (LLAMA_3 | {"low_freq_factor": True}, "low_freq_factor, got True"),
        (LLAMA_3 | {"low_freq_factor": 4.0}, "low_freq_factor of 4, which must be less"),
        (LLAMA_3 | {"original_max_position_embeddings": None}, "original_max_position_embeddings"),
    ],
)
@pytest.mark.parametrize("version", [1, 3])
def test_rope_scaling_that_is_refused_at_load(version, scaling, said) -> None:
    config = plain.config(rope_scaling=scaling)
    make = (
        functools.partial(served, rope_scaling=scaling)
        if version == 1
        else functools.partial(ServedHead, config, plain.weights(config), plain.target(), 8)
    )
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert str(caught.value).endswith(".")


def test_a_config_that_claims_an_endless_context_costs_nothing() -> None:
    head, _, _ = served(max_position_embeddings=2**50)
    assert len(head._rotation_P2D) < 10_000
