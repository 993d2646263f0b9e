"""What a server is going to take of its device's memory, told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cast_server.config import EngineConfig
from cast_server.draft_outline import DraftOutline
from cast_server.errors import ConfigError
from cast_server.machine import Memory
from cast_server.outline import Outline
from cast_server.step_limits import (
    decoding_rows,
    kv_token_bytes,
    num_kv_tokens,
    row_buckets,
    scheduler_limits,
)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in memory. `num_bytes` is None for what nobody has measured."""

    name: str
    num_bytes: int | None
    text: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`kv_tokens` is the size of the KV cache that all of it is planned for."""

    items: tuple[Item, ...]
    kv_tokens: int
    kv_token_bytes: int
    memory: Memory

    @property
    def total(self) -> int:
        return sum(item.num_bytes or 0 for item in self.items)

    def __getitem__(self, name: str) -> int:
        return sum(item.num_bytes or 0 for item in self.items if item.name == name)

    def summary(self) -> str:
        """All of it in a few words, for the log."""
        parts = [
            f"{item.name} {size_text(item.num_bytes)}"
            for item in self.items
            if item.num_bytes is None or item.num_bytes >= 2**20
        ]
        return (
            f"Memory: {', '.join(parts)}; all {size_text(self.total)} of "
            f"{size_text(self.memory.free)} free. The KV cache holds {self.kv_tokens:,} tokens of "
            f"{self.kv_token_bytes:,} bytes."
        )


def plan_memory(
    config: EngineConfig,
    target: Outline,
    draft: DraftOutline,
    device: torch.device,
    memory: Memory,
) -> MemoryPlan:
    """Raises `ConfigError`, with the numbers, for what does not fit into what is free."""
    step = _step_bytes(config, target)
    fixed = [
        Item("weights", target.weight_bytes(device), _weights_text(target)),
        Item("draft head", draft.weight_bytes, draft.text),
        Item("n-gram store", draft.store_bytes, "read as it is needed"),
        Item("largest step", step, _step_text(config)),
    ]
    left = memory.free - sum(item.num_bytes or 0 for item in fixed)
    if left <= 0 and memory.is_known:
        raise _too_large(target, fixed, memory)
    token_bytes = kv_token_bytes(target.text_config, target.dtype)
    tokens = num_kv_tokens(config, target.text_config, token_bytes + draft.slot_bytes, left, device)
    tokens -= tokens % config.block_size
    if device.type == "cuda" and config.cuda_graphs:
        # Steps whose drafts grow on the device are recorded apart from the others.
        count = len(row_buckets(config)) * (2 if draft.name == "eagle" else 1)
        graphs = f"{count} of them; how much they take has not been measured"
        fixed.append(Item("CUDA graphs", None, graphs))
    caches = [
        Item("KV cache", tokens * token_bytes, _cache_text(tokens, token_bytes, memory, device)),
        Item(
            "drafter's cache",
            (tokens + draft.extra_slots) * draft.slot_bytes,
            f"{tokens + draft.extra_slots:,} slots of {draft.slot_bytes:,} bytes",
        ),
    ]
    items = (*fixed[:2], *caches, *fixed[2:])
    plan = MemoryPlan(
        tuple(item for item in items if item.num_bytes != 0), tokens, token_bytes, memory
    )
    if plan.total > memory.free and memory.is_known:
        raise _too_many_tokens(plan, left // (token_bytes + draft.slot_bytes), config)
    return plan


def size_text(num_bytes: int | None) -> str:
    """In the unit that leaves three figures."""
    if num_bytes is None:
        return "(not measured)"
    size, units = float(num_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.3g} {units[0]}"


def _cache_text(tokens: int, token_bytes: int, memory: Memory, device: torch.device) -> str:
    share = f"{tokens * token_bytes / max(1, memory.free):.0%} of what is free"
    filling = ", taken as it fills" if device.type == "cpu" else ""
    return f"{tokens:,} tokens of {token_bytes:,} bytes, {share}{filling}"


def _step_bytes(config: EngineConfig, target: Outline) -> int:
    """An estimate: what one layer makes of the rows of the largest step, and their logits.

    In float32: the residual stream and its norms, queries, keys and values, the two halves of a
    gated MLP; of each row that decodes its logits, scores and noise. Keys and values of one layer
    are gathered on a CPU, for the longest context that a step can have.
    """
    text, limits = target.text_config, scheduler_limits(config, target.text_config)
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    layer = 4 * limits.max_batched_tokens * (5 * hidden + 3 * inner)
    logits = 3 * 4 * decoding_rows(config) * int(text.vocab_size)
    token = kv_token_bytes(text, target.dtype) // text.num_hidden_layers
    return layer + logits + token * limits.max_model_len


def _step_text(config: EngineConfig) -> str:
    rows = max(config.max_batched_tokens, config.max_num_seqs)
    return f"estimated: {rows} rows, logits of {decoding_rows(config)}"


def _weights_text(target: Outline) -> str:
    name = str(target.dtype).removeprefix("torch.")
    return f"{target.num_weights:,} in {name}, output rows on their own"


def _too_large(target: Outline, fixed: list[Item], memory: Memory) -> ConfigError:
    need = sum(item.num_bytes or 0 for item in fixed)
    return ConfigError(
        f"The model does not fit: without any KV cache it takes {size_text(need)} "
        f"({_weights_text(target)}), but {size_text(memory.free)} are free; take a smaller model, "
        "or a --dtype of half the size if this is float32."
    )


def _too_many_tokens(plan: MemoryPlan, fitting: int, config: EngineConfig) -> ConfigError:
    fitting = max(0, fitting - fitting % config.block_size)
    return ConfigError(
        f"--kv-cache-tokens {config.kv_cache_tokens} does not fit: all together takes "
        f"{size_text(plan.total)} ({size_text(plan['weights'])} of weights, "
        f"{size_text(plan['KV cache'])} of KV cache), but {size_text(plan.memory.free)} are free; "
        f"{fitting:,} tokens would fit."
    )
