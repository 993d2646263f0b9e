from __future__ import annotations

import copy

import pytest
import torch

from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.model_files import load_model, resolve_model


@pytest.fixture(scope="session", autouse=True)
def _at_most_two_threads():
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def plain_model():
    """The default model in float32, as transformers loads it, and its tokenizer."""
    return load_model(resolve_model("smollm2-135m-instruct"), torch.float32)


@pytest.fixture(scope="session")
def make_core(plain_model):
    """Engines around the default model; they share its repacked weights, not their caches."""
    model, tokenizer = plain_model
    taken_over = copy.deepcopy(model)

    def make(**changes):
        settings = {"dtype": "float32", "kv_cache_tokens": 16384, "max_draft_rows": 64} | changes
        return build_core(EngineConfig(**settings), copy.deepcopy(taken_over), tokenizer)

    return make
