"""What bfloat16 costs: how far the margin between the two likeliest tokens moves against float32.

The engine and transformers' own forward pass, both in bfloat16, against transformers in float32, at
every place of some prompts. It says which differences `cast_bench.lossless` may call near ties.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.forward_batch import ForwardBatch
from cast_server.engine.request import Request, SamplingParams
from cast_server.model_files import load_model, resolve_model


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    path = resolve_model(args.model)
    exact, tokenizer = load_model(path, torch.float32)
    coarse, _ = load_model(path, torch.bfloat16)
    model, _ = load_model(path, torch.bfloat16)
    config = EngineConfig(model=args.model, drafter="ngram", policy="off", prefix_caching=False)
    core = build_core(config, model, tokenizer)
    errors: dict[str, list[Tensor]] = {"engine": [], "transformers": []}
    for prompt in tqdm(PROMPTS[: args.num_prompts], desc="prompts", unit=""):
        ids = chat_ids(tokenizer, prompt)
        right = _logits(exact, ids)
        top = right.topk(2).indices
        for name, found in (
            ("engine", engine_logits(core, ids)),
            ("transformers", _logits(coarse, ids)),
        ):
            errors[name].append((_margins(found, top) - _margins(right, top)).abs())
    figures = {name: _figures(torch.cat(found)) for name, found in errors.items()}
    for name, figure in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figure.items()))
    if args.json:
        document = {"provenance": provenance("cast_bench.rounding", args), "margin_errors": figures}
        args.json.write_text(json.dumps(document) + "\n")
    return 0


def engine_logits(core: EngineCore, ids: list[int]) -> Tensor:
    """Logits of every place of a prompt, [L, V], by the engine's own pass over it."""
    seen: list[Tensor] = []
    forward = core.runner.forward

    def watched(batch: ForwardBatch) -> Tensor:
        logits = forward(replace(batch, logit_rows=torch.arange(len(ids))))
        seen.append(logits)
        return logits[-1:]

    core.runner.forward = watched  # type: ignore[method-assign]
    try:
        core.add(Request("all", tuple(ids), SamplingParams(max_tokens=1, temperature=0.0), 0))
        while core.has_work:
            core.step()
    finally:
        core.runner.forward = forward  # type: ignore[method-assign]
    return seen[0]


@torch.inference_mode()
def _logits(model: Any, ids: list[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([ids])).logits[0].float()
    return logits


def _margins(logits_LV: Tensor, top_L2: Tensor) -> Tensor:
    return logits_LV.gather(1, top_L2).diff(dim=1)[:, 0]


def _figures(errors: Tensor) -> dict[str, float]:
    return {
        "places": len(errors),
        "root mean square": float(errors.square().mean().sqrt()),
        "99th percentile": float(errors.quantile(0.99)),
        "largest": float(errors.max()),
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench rounding", description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct")
    add("--num-prompts", type=int, default=8)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
