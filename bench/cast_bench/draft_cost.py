"""What a level of drafts costs beside a step of the target, in turns, on the machine at hand.

One sequence, one context. A level is what the drafter runs for it: the head's pass over some rows,
its log-probabilities and the best of them; a step is one plain decoding step of the engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_drafters.eagle.drafter import EagleDrafter
from cast_profiler.grid import GridPoint
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model
from cast_server.profiling.passes import HeadLevel


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    config = EngineConfig(
        model=args.model, dtype=args.dtype, drafter="eagle", head=args.head, kv_cache_tokens=8192
    )
    core = build_core(config, model, tokenizer)
    step = plain_step(core, chat_ids(tokenizer, " ".join(PROMPTS))[-args.context :])
    assert isinstance(core.drafter, EagleDrafter)
    level = HeadLevel(core, core.drafter, GridPoint(args.rows, 1, args.context))
    times: dict[str, list[float]] = {"target step": [], "draft level": []}
    for _ in range(args.rounds):
        for name, run in (("target step", step), ("draft level", level)):
            begin = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begin))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(f"{name}: {medians[name]:.2f} ms (middle half {low:.2f} to {high:.2f})")
    ratio = medians["draft level"] / medians["target step"]
    print(f"a level of {args.rows} rows costs {ratio:.1%} of a step")
    if args.json:
        document = {
            "provenance": provenance("cast_bench.draft_cost", args),
            "milliseconds": {name: [round(t, 3) for t in values] for name, values in times.items()},
            "ratio_of_medians": ratio,
        }
        args.json.write_text(json.dumps(document) + "\n")
    return 0


def plain_step(core: EngineCore, prompt: list[int]) -> Callable[[], Any]:
    """One decoding step of a request that is under way."""
    params = SamplingParams(max_tokens=4000, temperature=0.0, ignore_eos=True)
    core.add(Request("timed", tuple(prompt), params, 0, SpeculationParams("off")))
    for _ in range(4):
        core.step()
    return core.step


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench draft-cost", description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct")
    add("--head", help="directory of the draft head (default: the shipped one)")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--rows", type=int, default=8)
    add("--context", type=int, default=256)
    add("--rounds", type=int, default=200)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="write every time to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
