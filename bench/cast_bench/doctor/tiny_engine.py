"""A tiny random engine that needs no files, and drafts that mislead it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cast_drafters.base import DraftContext, Drafter, LevelGate, VerifyResult
from cast_drafters.calibration import Calibration
from cast_drafters.tree import EMPTY_TREE, DraftTree, tree_from_arrays
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams

VOCABULARY: Final = 256  # the bytes
_LENGTHS: Final = (14, 3, 25, 10)  # of prompts; the first and third begin alike
_SHARED: Final = 9
_TOKENS: Final = 8  # of each answer
_NODES: Final = 6
_TEMPERATURES: Final = (0.0, 0.8, 1.2, 0.0)
_POLICIES: Final = ("tree:6", "chain:4", "tree:6", "off")

Answers = Mapping[str, list[int]]


def run_misled(core: EngineCore, expected: Answers) -> tuple[Answers, int]:
    """Answers with drafts that are right about half of the time, and how many were accepted."""
    core.drafter = HalfRight(expected)
    return run(core, _POLICIES)


def plain_answers() -> Answers:
    """Of plain decoding on the CPU, without any Triton."""
    return run(make_engine(device="cpu", kernels="torch"), ["off"] * len(_LENGTHS))[0]


def make_engine(**settings: Any) -> EngineCore:
    """Float32; the same weights every time, so large that logits have clear winners."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    generator = torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            parameter.copy_(noise if parameter.ndim > 1 else 1 + noise)
    changes = {"dtype": "float32", "drafter": "ngram", "kv_cache_tokens": 512, "block_size": 4}
    changes |= {"max_num_seqs": 4, "max_draft_rows": 24, "max_batched_tokens": 24}
    return build_core(EngineConfig(**changes | settings), model, _byte_tokenizer())


def run(core: EngineCore, policies: Sequence[str]) -> tuple[Answers, int]:
    """Tokens of all answers, greedy and seeded ones, and how many drafts were accepted."""
    answers: dict[str, list[int]] = {}
    for index, (temperature, policy) in enumerate(zip(_TEMPERATURES, policies, strict=True)):
        params = SamplingParams(max_tokens=_TOKENS, temperature=temperature, ignore_eos=True)
        request = Request(str(index), _prompts()[index], params, index, SpeculationParams(policy))
        answers[request.id] = []
        core.add(request)
    accepted = 0
    while core.has_work:
        for output in core.step():
            answers[output.request_id] += output.new_token_ids
            if output.finish_reason is not None and output.speculation is not None:
                accepted += output.speculation.num_accepted_draft_tokens
    return answers, accepted


class HalfRight(Drafter):
    """Hides what will be said among random branches. `answers`: by request."""

    name = "half-right"
    calibration = Calibration()

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._random = random.Random(0)

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        pass

    def propose(
        self,
        contexts: Sequence[DraftContext],
        gate: LevelGate | None = None,  # noqa: ARG002
    ) -> list[DraftTree]:
        return [self._tree(one) for one in contexts]

    def observe(self, results: Sequence[VerifyResult]) -> None:
        pass

    def release(self, request_id: str) -> None:
        pass

    def _tree(self, context: DraftContext) -> DraftTree:
        count = min(_NODES, context.limits.max_nodes)
        truth = self._answers[context.request_id][context.num_output :]
        tokens: list[int] = []
        parents: list[int] = []
        right, depth = -1, 0  # the node down to which all is right
        for node in range(count):
            is_true = depth < len(truth) and self._random.random() < 0.5
            tokens.append(truth[depth] if is_true else self._random.randrange(VOCABULARY))
            parents.append(right if is_true else self._random.randrange(-1, node))
            if is_true:
                right, depth = node, depth + 1
        return tree_from_arrays(tokens, parents, [0.0] * count) if count else EMPTY_TREE


def _prompts() -> list[tuple[int, ...]]:
    chosen = random.Random(0)
    prompts = [[chosen.randrange(VOCABULARY) for _ in range(length)] for length in _LENGTHS]
    prompts[2][:_SHARED] = prompts[0][:_SHARED]
    return [tuple(prompt) for prompt in prompts]


def _byte_tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: index for index, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
