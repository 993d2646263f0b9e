"""What to think of a new head before it has served: its record on prompts held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from tqdm import tqdm

from cast_drafters.calibration import Calibration
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model

_AT_ONCE: Final = 8
_TEMPERATURES: Final = (0.0, 0.8)


def calibrate(
    model_name: str, head: Path, prompts: Sequence[list[int]], num_tokens: int = 96
) -> Calibration:
    """Answers the prompts, greedily and sampled, with fixed trees of the head in `head`."""
    model, tokenizer = load_model(resolve_model(model_name), torch.bfloat16)
    config = EngineConfig(
        model=model_name,
        head=str(head),
        kv_cache_tokens=max(8192, 2 * _AT_ONCE * max(map(len, prompts), default=0)),
        max_num_seqs=_AT_ONCE,
        max_draft_rows=17 * _AT_ONCE,
    )
    core = build_core(config, model, tokenizer)
    core.drafter.calibration = Calibration()
    for temperature in _TEMPERATURES:
        for number, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=num_tokens, temperature=temperature)
            name = f"{temperature}-{number}"
            core.add(Request(name, tuple(prompt), params, number, SpeculationParams("tree:16")))
    with tqdm(total=len(prompts) * len(_TEMPERATURES), desc="calibrating", unit="") as progress:
        while core.has_work:
            for output in core.step():
                if output.error is not None:
                    raise output.error
                progress.update(output.finish_reason is not None)
    return core.drafter.calibration
