"""On-policy branches against the target and the head run path by path."""

from __future__ import annotations

import plain_head as plain
import pytest
import tiny_models
import torch

from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import Piece, unroll
from cast_server.engine.model_runner import ModelRunner
from cast_server.training.branching import Brancher
from cast_server.training.pipeline import last_states

VOCAB = tiny_models.VOCAB_SIZE


@pytest.fixture(scope="module")
def world():
    model = tiny_models.randomised(tiny_models.llama)
    width = model.config.hidden_size
    config = plain.config(
        hidden_size=width, target_hidden_size=width, head_dim=16, vocab_size=VOCAB
    )
    tensors = plain.weights(config)
    head = EagleHead(config)
    head.load_state_dict({n: t for n, t in tensors.items() if n in head.state_dict()})
    torch.manual_seed(2)
    tokens = torch.randint(VOCAB, (20,))
    piece = Piece(tokens, torch.randn(19, 3 * width), torch.randn(19, width), 8)
    plain_model = tiny_models.randomised(tiny_models.llama)
    norm = last_states(plain_model)
    brancher = Brancher(
        ModelRunner(model, 256, torch.device("cpu")),
        norm,
        tensors["embed_tokens.weight"],
        tensors["draft_token_ids"],
        starts=5,
        length=3,
    )
    [branched] = brancher(head, [piece], 7)
    return plain_model, norm, config, tensors, head, piece, branched.branches


def test_rows_are_of_the_answer(world) -> None:
    *_, piece, branches = world
    assert len(branches.starts_A) == 5
    assert set(branches.starts_A.tolist()) <= set(piece.starts().tolist())


def test_tokens_are_what_the_head_drafts(world) -> None:
    _, _, config, tensors, _, piece, branches = world
    right = plain.Plain(config, tensors)
    hidden = right.fuse(piece.features_TF[:18].split(config.target_hidden_size, -1))
    causal = torch.ones(18, 18, dtype=torch.bool).tril()
    chain = right.forward(piece.token_ids_T[1:19], hidden, torch.arange(18), causal)
    for start, drafted in zip(branches.starts_A.tolist(), branches.tokens_AS, strict=True):
        tokens, states, out = piece.token_ids_T[1 : start + 2], [], chain[start]
        for token in drafted.tolist():
            best = right.log_probs(out).argmax()
            assert int(tensors["draft_token_ids"][best]) == token
            tokens = torch.cat([tokens, torch.tensor([token])])
            states.append(out)
            rows = torch.arange(len(tokens))
            sees = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
            inputs = torch.cat([hidden[: start + 1], torch.stack(states)])
            out = right.forward(tokens, inputs, rows, sees)[-1]


def test_states_are_the_targets_on_each_path_alone(world) -> None:
    model, _, *_, piece, branches = world
    for row, start in enumerate(branches.starts_A.tolist()):
        path = torch.cat([piece.token_ids_T[: start + 2], branches.tokens_AS[row]])
        with torch.inference_mode():
            out = model(path[None], output_hidden_states=True)
            logits = out.logits[0, start + 2 :]
        mine = branches.finals_ASE[row] @ model.get_output_embeddings().weight.T.detach()
        assert float((mine - logits).norm() / logits.norm()) < 2e-2  # kept in bfloat16


def test_the_loss_takes_branches_beside_texts(world) -> None:
    _, _, config, tensors, head, piece, branches = world
    rows = torch.randn(config.draft_vocab_size, config.target_hidden_size)
    embedding = tensors["embed_tokens.weight"]
    from dataclasses import replace

    branched = replace(piece, branches=branches)
    both = unroll(head, embedding, rows, [piece, branched], 4)
    text = unroll(head, embedding, rows, [piece], 4)
    alone = unroll(head, embedding, rows, [branched], 4)
    assert alone[0].count == 0
    for step in range(4):
        counts = (text[step].count, alone[step].count)
        assert both[step].count == sum(counts)
        mean = (text[step].loss * counts[0] + alone[step].loss * counts[1]) / sum(counts)
        assert both[step].loss.item() == pytest.approx(mean.item(), rel=1e-4)
