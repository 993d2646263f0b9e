"""What a configuration lets the engine hold and compute at once."""

from __future__ import annotations

from typing import Any, Final

import torch

from cast_kernels.graphs import bucket_sizes
from cast_server.config import EngineConfig
from cast_server.engine.model_runner import kv_cache_shape
from cast_server.engine.scheduler import SchedulerLimits
from cast_server.errors import ConfigError

# Of what is free, for the KV cache of target and drafter. The rest of a host is not ours alone.
_CACHE_SHARE: Final = {"cpu": 0.2, "cuda": 0.85}


def scheduler_limits(config: EngineConfig, text_config: Any) -> SchedulerLimits:
    """Raises `ConfigError` for a context that the model was not made for."""
    return SchedulerLimits(
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=max(config.max_batched_tokens, config.max_num_seqs),
        max_draft_rows=config.max_draft_rows,
        max_model_len=max_model_len(config, text_config),
        prefix_caching=config.prefix_caching,
    )


def max_model_len(config: EngineConfig, text_config: Any) -> int:
    """Raises `ConfigError` for more than the model was made for."""
    longest = int(text_config.max_position_embeddings)
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(
            f"--max-model-len {config.max_model_len}: the model was made for {longest} tokens."
        )
    return config.max_model_len or longest


def decoding_rows(config: EngineConfig) -> int:
    """Of a step, at most: sequences that decode, and their drafts."""
    most = max(config.max_batched_tokens, config.max_num_seqs)
    return min(max(config.max_draft_rows, config.max_num_seqs), most)


def row_buckets(config: EngineConfig) -> tuple[int, ...]:
    """Numbers of rows that steps are padded to on a static backend."""
    return bucket_sizes(config.cuda_graphs, decoding_rows(config))


def kv_token_bytes(text_config: Any, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    layers, _, both, heads, head_dim = kv_cache_shape(text_config, 1)
    return layers * both * heads * head_dim * dtype.itemsize


def num_kv_tokens(
    config: EngineConfig, text_config: Any, token_bytes: int, free: int, device: torch.device
) -> int:
    """Tokens that the cache is made for: as configured, or as many as are of use and affordable.

    `token_bytes`: of one token, in every cache that grows with it. `free`: bytes that are left when
    all weights are in memory. Raises `ConfigError` for less than a block.
    """
    if config.kv_cache_tokens is not None:
        if config.kv_cache_tokens < config.block_size:
            raise ConfigError(
                f"--kv-cache-tokens {config.kv_cache_tokens} is less than one block "
                f"(--block-size {config.block_size})."
            )
        return config.kv_cache_tokens
    affordable = int(free * _CACHE_SHARE[device.type] / token_bytes)
    wanted = config.max_num_seqs * max_model_len(config, text_config)
    if affordable < config.block_size:
        raise ConfigError("There is not enough free memory for any KV cache.")
    return max(config.block_size, min(affordable, wanted))
