"""The traps of docs/evaluators.md, on the default model in float32 and a text that stays."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig, OPTModel

from cast_server.evaluators import effective_rank
from cast_server.evaluators.measures.class_means import ClassMeans, next_token_classes
from cast_server.evaluators.measures.effective_rank import norm_ratio
from cast_server.evaluators.measures.matrix_information import gram, shared_information
from cast_server.model_files import load_model, resolve_model

pytestmark = pytest.mark.slow
TEXT = (Path(__file__).parents[3] / "LICENSE").read_text()
NUM_TOKENS = 193
SINK_LAYER = 15


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = load_model(resolve_model("smollm2-135m-instruct"), torch.float32)
    return model.eval(), tokenizer(TEXT)["input_ids"]


def states(model, ids):
    with torch.inference_mode():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    return [hidden_1NE[0] for hidden_1NE in output.hidden_states]  # the last one is normed


def untrained(model, std: float):
    config = copy.deepcopy(model.config)
    config.initializer_range = std
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_the_untrained_twin_decides_the_sign(loaded) -> None:
    model, ids = loaded
    trained = effective_rank(states(model, ids[:NUM_TOKENS])[-1])
    twins = {
        std: effective_rank(states(untrained(model, std), ids[:NUM_TOKENS])[-1])
        for std in (0.02, 1 / 24, 0.1)
    }
    print(f"trained {trained:.2f}, untrained {twins}")
    assert twins[0.02] < trained < twins[1 / 24] < twins[0.1]


def test_dropout_is_much_of_an_untrained_rank() -> None:
    """The official code leaves it on. The shape of OPT-125M but for the vocabulary."""
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=1000, hidden_size=768, num_hidden_layers=12, dropout=0.1)
    model, ids = OPTModel(config), torch.randint(4, 1000, (1, NUM_TOKENS))
    ranks = {}
    for is_training in (False, True):
        model.train(is_training)
        with torch.inference_mode():
            ranks[is_training] = effective_rank(model(ids).last_hidden_state[0])
    print(f"dropout off and on: {ranks}")
    assert ranks[True] > 1.3 * ranks[False]


def test_the_first_token_takes_the_rank_of_a_middle_layer(loaded) -> None:
    model, ids = loaded
    hidden = states(model, ids[:NUM_TOKENS])
    middle, last = hidden[SINK_LAYER], hidden[-1]
    ratio, ranks = norm_ratio(middle), (effective_rank(middle), effective_rank(middle[1:]))
    print(f"ratio {ratio:.1f}, behind the final norm {norm_ratio(last):.2f}, eRank {ranks}")
    assert ratio > 100
    assert 5 * ranks[0] < ranks[1]
    assert norm_ratio(last) < 2


def test_centring_is_part_of_hdr(loaded) -> None:
    model, ids = loaded
    ids = ids[:1305]
    classes, _ = next_token_classes([ids], most=2048)
    means = ClassMeans(classes, model.config.hidden_size)
    means.add(ids, states(model, ids)[-1])
    head = gram(model.get_output_embeddings().weight[classes])
    centred = shared_information(head, gram(means.centred()))
    raw = shared_information(head, gram(means._sums_CE))  # of the same directions as the means
    print(f"{len(classes)} classes: MIR {centred.mir:.3f}, HDR {centred.hdr:.3f}, {raw.hdr:.3f}")
    assert raw.hdr > centred.hdr + 0.2
