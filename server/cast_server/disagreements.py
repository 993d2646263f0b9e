"""Settings that are right one by one, and do not go together or come to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cast_server.draft_outline import drafter_name
from cast_server.machine import usable_cores
from cast_server.memory_plan import MemoryPlan
from cast_server.settings import Settings
from cast_server.step_limits import max_model_len


def disagreements(
    settings: Settings, device: torch.device, plan: MemoryPlan, text_config: object
) -> Iterator[str]:
    """A sentence each. None of them keeps the server from starting."""
    config, is_set = settings.engine, settings.origins.keys()
    longest = max_model_len(config, text_config)
    if plan.kv_tokens < longest:
        yield (
            f"The KV cache holds {plan.kv_tokens:,} tokens, so that is the longest prompt and "
            f"answer together, not {longest:,}: raise --kv-cache-tokens."
        )
    if config.max_num_seqs > config.max_batched_tokens:
        yield (
            f"--max-batched-tokens {config.max_batched_tokens} is raised to --max-num-seqs "
            f"{config.max_num_seqs}, a row for each sequence."
        )
    if config.max_draft_rows < config.max_num_seqs and config.policy != "off":
        yield (
            f"--max-draft-rows {config.max_draft_rows} leaves no drafts for {config.max_num_seqs} "
            "sequences side by side (--max-num-seqs)."
        )
    if device.type == "cpu":
        yield from _on_a_cpu(settings)
    elif "threads" in is_set:
        yield f"--threads {config.threads} hardly matters: the model runs on {device}."
    yield from _about_drafts(settings)


def _on_a_cpu(settings: Settings) -> Iterator[str]:
    config = settings.engine
    if "cuda_graphs" in settings.origins and config.kernels != "triton":
        yield f"--cuda-graphs {config.cuda_graphs} comes to nothing on a CPU."
    threads, cores = config.threads or torch.get_num_threads(), usable_cores()
    if threads > max(1.0, cores):
        yield (
            f"{threads} threads are more than the {cores:.3g} processors that may be used here: "
            f"set --threads {max(1, int(cores))}."
        )


def _about_drafts(settings: Settings) -> Iterator[str]:
    config, is_set = settings.engine, settings.origins.keys()
    if config.policy == "off" and is_set & {"drafter", "head", "learn_from_traffic"}:
        yield "--policy off: a drafter is loaded, but drafts for requests that ask for it only."
    if "draft_sources" in is_set and drafter_name(config) != "eagle":
        yield f"--draft-sources {config.draft_sources} is for --drafter eagle."
    if config.profile == "guess" and config.policy == "cast":
        yield "--profile guess: how far it pays to draft is decided by costs nobody has measured."
