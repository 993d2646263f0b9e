"""The composition root: from a configuration to a running engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import torch

from cast_drafters.base import Drafter, HiddenObserver, TargetParts
from cast_drafters.policy import parse_policy
from cast_drafters.registry import create_drafter
from cast_drafters.shipped import has_shipped_head
from cast_server.config import EngineConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.block_pool import BlockPool
from cast_server.engine.core import EngineCore
from cast_server.engine.model_runner import ModelRunner, check_supported, kv_cache_shape
from cast_server.engine.scheduler import Scheduler, SchedulerLimits
from cast_server.errors import ConfigError
from cast_server.model_files import load_model, resolve_model

_log = logging.getLogger(__name__)

_DTYPES: Final = {
    "auto": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_MEMORY_SHARE: Final = {"cpu": 0.2, "cuda": 0.85}


def build_engine(config: EngineConfig, served_name: str | None = None) -> AsyncEngine:
    """Loads the model and puts the parts together. Raises `ConfigError` with what to change."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    files = resolve_model(config.model)
    model, tokenizer = load_model(files, _DTYPES[config.dtype])
    core = build_core(config, model, tokenizer)
    return AsyncEngine(core, served_name or files.name, config.max_waiting)


def build_core(config: EngineConfig, model: Any, tokenizer: Any) -> EngineCore:
    """An engine around a loaded model, which it takes over."""
    check_supported(model)
    device = _device(config.device)
    text_config = model.config.get_text_config()
    max_model_len = _max_model_len(config, text_config)
    num_blocks = _num_kv_tokens(config, model, max_model_len, device) // config.block_size
    try:
        parse_policy(config.policy)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause
    runner = ModelRunner(model, num_blocks * config.block_size, device)
    drafter = _make_drafter(config, runner)
    limits = SchedulerLimits(
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=max(config.max_batched_tokens, config.max_num_seqs),
        max_draft_rows=config.max_draft_rows,
        max_model_len=max_model_len,
        prefix_caching=config.prefix_caching,
    )
    scheduler = Scheduler(BlockPool(num_blocks, config.block_size), limits)
    return EngineCore(
        runner, scheduler, drafter, tokenizer, _eos_token_ids(model, tokenizer), config.policy
    )


def _make_drafter(config: EngineConfig, runner: ModelRunner) -> Drafter:
    options: dict[str, Any] = {"head": Path(config.head)} if config.head else {}
    name = config.drafter
    if name == "auto":
        name = "eagle" if config.head or has_shipped_head(config.model) else "ngram"
    if name == "eagle":
        options["sources"] = [name for name in config.draft_sources.split(",") if name]
        options["learn_from_traffic"] = config.learn_from_traffic
    elif config.learn_from_traffic:
        raise ConfigError("--learn-from-traffic works with --drafter eagle only.")
    target = TargetParts(
        name=config.model,
        model=runner.model,
        embedding_VE=runner.model.get_input_embeddings().weight.detach(),
        num_layers=runner.model.config.get_text_config().num_hidden_layers,
        num_slots=runner.kv_cache_YS2KD.shape[1],
        dtype=runner.dtype,
        device=runner.device,
    )
    try:
        drafter = create_drafter(name, target, **options)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause
    if isinstance(drafter, HiddenObserver):
        runner.watch(drafter)
    return drafter


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no CUDA device; use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError as cause:
        raise ConfigError(f"--device {name}: not a device that torch knows.") from cause


def _max_model_len(config: EngineConfig, text_config: Any) -> int:
    longest = int(text_config.max_position_embeddings)
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(
            f"--max-model-len {config.max_model_len}: the model was made for {longest} tokens."
        )
    return config.max_model_len or longest


def _num_kv_tokens(
    config: EngineConfig, model: Any, max_model_len: int, device: torch.device
) -> int:
    if config.kv_cache_tokens is not None:
        if config.kv_cache_tokens < config.block_size:
            raise ConfigError(
                f"--kv-cache-tokens {config.kv_cache_tokens} is less than one block "
                f"(--block-size {config.block_size})."
            )
        return config.kv_cache_tokens
    layers, _, _, heads, head_dim = kv_cache_shape(model.config.get_text_config(), 1)
    token_bytes = layers * 2 * heads * head_dim * model.dtype.itemsize
    affordable = int(_free_memory(device) * _MEMORY_SHARE[device.type] / token_bytes)
    wanted = config.max_num_seqs * max_model_len
    if affordable < config.block_size:
        raise ConfigError("There is not enough free memory for any KV cache.")
    return max(config.block_size, min(affordable, wanted))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 4 * 2**30  # no way to ask here; small enough for a laptop
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Both the model's own generation settings and the tokenizer may name end tokens."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ids = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return frozenset(token_id for token_id in ids if token_id is not None)
