"""The published CAST's three thresholds, swept once for a model as its authors do.

One threshold after the other takes the value that makes the geometric mean, over batch sizes, of
speeds over plain decoding largest; plain decoding and all values of a threshold run in turns in one
engine. What comes out belongs into `Thresholds` of `cast-paper`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm

from cast_bench.policies import Bench, read_sets
from cast_bench.policy_cells import Cell
from cast_bench.provenance import provenance
from cast_drafters.builders.cast_paper import CastPaperBuilder, Thresholds
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.model_files import load_model, resolve_model

_GRID: Final = (1.0, 1.5, 2.5, 4.0, 6.0)
_KIND: Final = "cast-paper"
_COORDINATES: Final = ("reranking", "depth", "breadth")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), torch.bfloat16)
    config = EngineConfig(
        model=args.model,
        kv_cache_tokens=32768,
        max_num_seqs=max(args.batch_size),
        max_draft_rows=2048,
        profile=args.profile,
    )
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    bench = Bench(core, args)
    [prompts] = read_sets(args, tokenizer).values()
    bench.fill_cache(prompts)
    best, sweeps = Thresholds(), []
    total = args.sweeps * len(_COORDINATES) * (len(_GRID) + 1) * args.rounds
    with tqdm(total=total, unit="point") as progress:
        for name in args.sweeps * _COORDINATES:
            points = [replace(best, **{name: value}) for value in _GRID]
            speeds = measure(bench, points, prompts, progress)
            best = points[int(np.argmax(speeds))]
            sweeps.append({"coordinate": name, "values": _GRID, "times_off": speeds})
            progress.write(f"{name}: {', '.join(f'{x:.2f}' for x in speeds)} at {_GRID}")
    print(best)
    if args.json:
        document = {
            "provenance": provenance("cast_bench.paper_thresholds", args),
            "figure": "geometric mean over batch sizes of tokens/s over those of off, medians",
            "sweeps": sweeps,
            "best": asdict(best),
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def measure(
    bench: Bench, points: Sequence[Thresholds], prompts: Sequence[list[int]], progress: tqdm
) -> list[float]:
    """Times `off`, for each point; every round takes them in another order."""
    args = bench.args
    rounds = []
    for number in range(args.rounds):
        plain = _speeds(bench, "off", prompts)
        progress.update()
        ratios = np.zeros((len(points), len(args.batch_size)))
        for place in np.roll(np.arange(len(points)), number * len(points) // args.rounds).tolist():
            bench.core.planner.use(_KIND, CastPaperBuilder(points[place]))
            ratios[place] = np.divide(_speeds(bench, _KIND, prompts), plain)
            progress.update()
        rounds.append(ratios)
    means: list[float] = np.exp(np.log(np.median(rounds, 0)).mean(-1)).round(4).tolist()
    return means


def _speeds(bench: Bench, policy: str, prompts: Sequence[list[int]]) -> list[float]:
    cells = [Cell("mixed", size, policy, 0) for size in bench.args.batch_size]
    for cell in cells:
        bench.run(cell, prompts, bench.args.num_tokens)
    return [cell.speed for cell in cells]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench paper-thresholds", description=__doc__)
    add = parser.add_argument
    add("--dataset", type=Path, nargs="+", default=[], help="files of questions (JSON lines)")
    add("--num-prompts", type=int, default=2, help="of each data set")
    add("--num-tokens", type=int, default=48)
    add("--batch-size", type=int, nargs="+", default=[1, 8])
    add("--rounds", type=int, default=1)
    add("--sweeps", type=int, default=1, help="how often each threshold is swept")
    add("--temperature", type=float, default=0.0)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--model", default="smollm2-135m-instruct")
    add("--profile", default="auto", help="what steps cost: auto, guess or a file")
    add("--json", type=Path)
    args = parser.parse_args(argv)
    args.mixed = True
    return args


if __name__ == "__main__":
    sys.exit(main())
