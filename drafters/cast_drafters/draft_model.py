"""Drafts with a small causal language model that has the target's tokenizer.

A step goes, for one sequence after the other: feed the tokens committed since the last step, read
the next level's guesses off the last row, feed the likeliest of them, and so on; at the end the
drafts are cropped from the model's cache again. Sequences are not batched yet: a step costs up to
`levels` passes of the draft model for each of them.

The cache is one that keeps every position. Sliding windows then are a matter of the mask alone, and
nothing that a crop brings back was ever dropped.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from cast_drafters.base import (
    DraftContext,
    Drafter,
    Frontier,
    LevelGate,
    OpenGate,
    TargetParts,
    VerifyResult,
)
from cast_drafters.calibration import Calibration
from cast_drafters.growth import ROOT, GrowingTree, Guess
from cast_drafters.lessons import Proposals
from cast_drafters.tree import EMPTY_TREE, DraftTree

# Models of one family pad the rows of one tokenizer differently, Qwen2.5 by 128, Pythia by 384.
MAX_PADDING: Final = 1024
_PROBE_TOKENS: Final = 8


def cache_argument(model: Any) -> str:
    """What transformers calls it changed in 5.24, and not for every model at once."""
    arguments = inspect.signature(model.forward).parameters
    return "cache" if "cache" in arguments else "past_key_values"


class DraftModelDrafter(Drafter):
    """A chain of the model's most likely tokens, their rivals beside them as leaves.

    `levels` passes a step at most, `width` children considered in each. `chunk` bounds the tokens
    fed at once, and so the memory that a long prompt takes. The caches, one a sequence, grow beside
    the target's and outlive preemption; all go with `release`.
    """

    name = "draft-model"

    def __init__(
        self, model: Any, vocab_size: int, levels: int = 5, width: int = 4, chunk: int = 512
    ) -> None:
        """`model`: a causal LM of transformers. `vocab_size`: ids from there on are not offered.

        Raises `ValueError` if drafts cannot be taken back from its cache.
        """
        self._model, self._vocab_size = model, vocab_size
        self._levels, self._width, self._chunk = levels, width, chunk
        self._device = model.device
        self._cache_argument = cache_argument(model)
        self._num_embeddings: int = model.get_input_embeddings().weight.shape[0]
        config = model.config.get_text_config()
        self._max_len = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self._caches: dict[str, Any] = {}
        self._proposals = Proposals()
        self.calibration = Calibration()
        self._check_cache()

    @classmethod
    def for_target(
        cls, target: TargetParts, head: Path | None = None, levels: int = 5, width: int = 4
    ) -> DraftModelDrafter:
        """Loads the model in the directory `head`, in the target's dtype and on its device.

        Its vocabulary may be a little smaller or larger than the target's, as padding goes: ids
        that only the draft model knows are never offered. Beyond the size, nothing tells whether
        the tokenizers are the same; drafts of another one would be rejected. Raises `ValueError`, a
        sentence on what is missing or does not fit.
        """
        if head is None:
            raise ValueError(
                "The drafter draft-model needs --head, the directory of a small model that has the "
                "target's tokenizer."
            )
        if not (head / "config.json").is_file():
            raise ValueError(f"There is no draft model in {head}: it holds no config.json.")
        return cls(_load(head, target), target.vocab_size, levels, width)

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        self._caches.pop(request_id, None)

    @torch.inference_mode()
    def propose(
        self, contexts: Sequence[DraftContext], gate: LevelGate | None = None
    ) -> list[DraftTree]:
        trees = [self._draft(one, gate or OpenGate()) for one in contexts]
        self._proposals.note(contexts, trees)
        return trees

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Learns how far to trust the model; committed tokens are read from the sequence."""
        self._proposals.teach(self.calibration, results)

    def release(self, request_id: str) -> None:
        self._caches.pop(request_id, None)
        self._proposals.forget(request_id)

    def cached(self, request_id: str) -> int:
        """How many tokens of a sequence the model need not read again."""
        cache = self._caches.get(request_id)
        return int(cache.get_seq_length()) if cache is not None else 0

    def _draft(self, context: DraftContext, gate: LevelGate) -> DraftTree:
        """The tree of one sequence; empty beyond the positions that the model was made for."""
        limits = context.limits
        length = len(context.token_ids)
        # The last level is read off the level above, so it may lie one position past the end.
        levels = min(self._levels, limits.max_depth, self._max_len - length + 1)
        width = min(self._width, limits.max_width)
        if min(levels, width, limits.max_nodes, length) <= 0:
            return EMPTY_TREE
        rows = length - min(length - 1, self.cached(context.request_id))
        root = _frontier(context, [0.0], rows, [])
        if not gate.widths(0, [root])[0]:
            return EMPTY_TREE
        # Out of the table until it is whole again: a pass that fails leaves a cache of no use.
        cache = self._caches.pop(context.request_id, None) or DynamicCache()
        # The last token is always fed: the first guesses are read off its row.
        _crop(cache, length - 1)
        logits_V = self._feed(cache, context.token_ids[cache.get_seq_length() :])
        tree = GrowingTree([], limits, self.calibration, context.temperature > 0)
        tip = self._add_level(tree, ROOT, logits_V, width)
        gate.ran(0, [root], [[_children(tree, ROOT)]])
        for level in range(1, levels):
            # A tip is closed where whatever follows could not be among the best `max_nodes`.
            if tip is None or tip not in tree.frontier(len(tree.nodes)):
                break
            candidates = [node.log_prob for node in tree.nodes]
            frontier = _frontier(context, [tree.nodes[tip].log_prob], 1, candidates)
            if not gate.widths(level, [frontier])[0]:
                break
            above = tip
            tip = self._add_level(tree, tip, self._feed(cache, [tree.nodes[tip].token]), width)
            gate.ran(level, [frontier], [[_children(tree, above)]])
        _crop(cache, length)
        self._caches[context.request_id] = cache
        return tree.finish()

    def _add_level(self, tree: GrowingTree, tip: int, logits_V: Tensor, width: int) -> int | None:
        """Gives `tip` its children. Returns the likeliest of them, if any is of use."""
        log_probs_V = logits_V.log_softmax(-1)[: self._vocab_size]
        top = log_probs_V.topk(min(width, len(log_probs_V)))
        first = len(tree.nodes)  # `GrowingTree` adds the likeliest first
        tree.add_children(tip, map(Guess, top.indices.tolist(), top.values.tolist()))
        return first if first < len(tree.nodes) else None

    def _feed(self, cache: Any, token_ids: Sequence[int]) -> Tensor:
        """Reads `token_ids`, at least one, into the cache; the last one's logits, float32 [V]."""
        # Ids in the target's padding have no row here; nothing says them, so any other will do.
        ids_1L = torch.tensor([token_ids]).clamp_(max=self._num_embeddings - 1).to(self._device)
        for begin in range(0, len(token_ids), self._chunk):
            piece_1L = ids_1L[:, begin : begin + self._chunk]
            passed = {self._cache_argument: cache}
            out = self._model(input_ids=piece_1L, use_cache=True, logits_to_keep=1, **passed)
        logits_V: Tensor = out.logits[0, -1].float()
        return logits_V

    @torch.inference_mode()
    def _check_cache(self) -> None:
        """Feeds, drafts, crops and feeds again; the logits must be those without any cache."""
        probe = [1]
        while len(probe) < _PROBE_TOKENS:
            probe.append(int(self._plain_logits(probe).argmax()))
        expected_V = self._plain_logits(probe)
        half = _PROBE_TOKENS // 2
        cache = DynamicCache()
        name = type(self._model).__name__
        try:
            self._feed(cache, probe[:half])
            self._feed(cache, [0])
            _crop(cache, half)
            logits_V = self._feed(cache, probe[half:])
        except Exception as error:
            raise ValueError(
                f"{name} cannot draft, its cache cannot be cropped: {error}"
            ) from error
        # Rounding moves logits by far less than their own spread, a token too many does not.
        tolerance = max(1e-3, 25 * torch.finfo(self._model.dtype).eps)
        if not (logits_V - expected_V).std() <= tolerance * expected_V.std():
            raise ValueError(f"{name} cannot draft: it gives other logits after a cropped cache.")

    def _plain_logits(self, token_ids: list[int]) -> Tensor:
        ids = torch.tensor([token_ids], device=self._device)
        logits_V: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
        return logits_V


def _frontier(
    context: DraftContext, log_probs: list[float], num_rows: int, candidates: list[float]
) -> Frontier:
    """The one node that a level would run; without the model nothing is known of it."""
    return Frontier(
        context.request_id,
        context.limits,
        log_probs,
        num_rows,
        candidates,
        lambda count: [()] * count,
    )


def _children(tree: GrowingTree, node: int) -> list[float]:
    above = tree.nodes[node].log_prob if node >= 0 else 0.0
    return [math.exp(one.log_prob - above) for one in tree.nodes if one.parent == node]


def _crop(cache: Any, length: int) -> None:
    """Leaves the first `length` tokens, if there are more."""
    surplus = cache.get_seq_length() - length
    if surplus > 0:
        cache.crop(-surplus)


def _load(directory: Path, target: TargetParts) -> Any:
    # Nothing is downloaded, and no code that lies beside the weights is run.
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(directory, **where)
        check_config(config, directory, target.vocab_size)
        model, report = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=target.dtype, output_loading_info=True, **where
        )
        if report["missing_keys"]:  # transformers would go on with random numbers in their place
            raise _Unfit(f"The draft model in {directory} lacks {min(report['missing_keys'])}.")
        return model.eval().to(target.device)
    except _Unfit:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"The draft model in {directory} cannot be loaded: {reason}") from error


def check_config(config: Any, directory: Path, vocab_size: int) -> None:
    """Raises `ValueError` for a model that cannot draft for a target of `vocab_size` tokens."""
    if config.is_encoder_decoder:
        raise _Unfit(
            f"The model in {directory} is an encoder-decoder model; only a decoder-only model can "
            "draft."
        )
    own_size = config.get_text_config().vocab_size
    if abs(own_size - vocab_size) > MAX_PADDING:
        raise _Unfit(
            f"The draft model in {directory} has a vocabulary of {own_size} tokens, the target one "
            f"of {vocab_size}: they do not share a tokenizer."
        )


class _Unfit(ValueError):
    """Says in full what is wrong; needs no more words around it."""
