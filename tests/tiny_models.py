"""Tiny random models and a small byte-level tokenizer: everything a test needs, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore

CORPUS = (
    "the cat and the dog went into the garden and the cat found the other cat there",
    "a stop, another stop; and then the end. The end of the end!",
    "Füchse überqueren Straßen; 猫は庭にいる。 🙂🙂 👩‍👩‍👧",
)
VOCAB_SIZE = 320
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WINDOW = 12


@cache
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """All bytes, a few merges and <|end|>: characters outside ASCII are cut into several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def llama(**changes: Any) -> Any:
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 16} | changes
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **NO_SPECIAL_TOKENS))


def qwen3() -> Any:
    config = transformers.Qwen3Config(
        **SIZES, num_key_value_heads=1, head_dim=32, **NO_SPECIAL_TOKENS
    )
    return transformers.Qwen3ForCausalLM(config)


def qwen2() -> Any:
    config = transformers.Qwen2Config(**SIZES, num_key_value_heads=2, **NO_SPECIAL_TOKENS)
    return transformers.Qwen2ForCausalLM(config)


def mistral() -> Any:
    config = transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, head_dim=16, sliding_window=WINDOW, **NO_SPECIAL_TOKENS
    )
    return transformers.MistralForCausalLM(config)


def gemma3() -> Any:
    config = transformers.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 3},
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **NO_SPECIAL_TOKENS,
    )
    return transformers.Gemma3ForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=64, n_layer=2, n_head=4, n_positions=512, **NO_SPECIAL_TOKENS
    )
    return transformers.GPT2LMHeadModel(config)


def granite() -> Any:
    """Its layers have Llama's parts, but scale what they add: fusing them changes the logits."""
    config = transformers.GraniteConfig(
        **SIZES, num_key_value_heads=2, residual_multiplier=0.3, **NO_SPECIAL_TOKENS
    )
    return transformers.GraniteForCausalLM(config)


def randomised(make: Callable[[], Any], seed: int = 0, std: float = 0.15) -> Any:
    """The model with weights (norms and biases too) so large that its logits have clear winners."""
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=std)
            else:
                parameter.add_(torch.randn_like(parameter) * std)
    return model


def model_of(family: str) -> Any:
    """A random model of a family above, the same each time. A copy: engines take over models."""
    return deepcopy(_model(family))


@cache
def _model(family: str) -> Any:
    return randomised(globals()[family])


@contextmanager
def one_thread() -> Iterator[None]:
    """For as long as it is entered: so little work is shared out slower than it is done."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tiny_core(model: Any, tokenizer: Any = None, **changes: Any) -> EngineCore:
    """An engine around `model`, which it takes over; float32, on the CPU."""
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "kv_cache_tokens": 2048}
    settings |= {"block_size": 4, "max_draft_rows": 64, "max_model_len": 256, "policy": "off"}
    settings |= {"drafter": "ngram"}  # the head that ships is for another model
    return build_core(
        EngineConfig(**settings | changes), model, tokenizer or byte_level_tokenizer()
    )


def save(directory: Path) -> Path:
    """A random Llama and its tokenizer, as files; returns the directory."""
    randomised(llama).save_pretrained(directory)
    byte_level_tokenizer().save_pretrained(directory)
    return directory
