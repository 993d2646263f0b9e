"""What it is worth to send along what one expects (`prediction`): right, edited, of something else.

Every prompt is answered without speculation first; its answer, edited in some words, is what an
editor would send. Sides run in turns in one engine: `off`, `none` (no prediction), `same` (the
answer itself), `edited`, and `other` (the answer to another prompt). Tokens over seconds from an
answer's first token on; prompts are in the prefix cache. The first round warms up. `--json` adds to
the rounds that the file holds, so that a measurement can be taken in pieces.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from tqdm import tqdm

from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_bench.ratios import ratio
from cast_drafters.tree import PREDICTED
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, RequestOutput, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model

SIDES: Final = ("off", "none", "same", "edited", "other")


@dataclass(slots=True)
class Cell:
    """One side in one round: all prompts, one after the other. `different`: answers that are not
    those of plain decoding; in bfloat16 near ties make some."""

    round: int
    side: str
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    predicted_drafted: int = 0
    predicted_accepted: int = 0
    different: int = 0

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    def count(self, tokens: int, seconds: float, last: RequestOutput) -> None:
        stats = last.speculation
        self.tokens += tokens
        self.seconds += seconds
        self.steps += stats.num_spec_steps
        self.drafted += stats.num_draft_tokens
        self.accepted += stats.num_accepted_draft_tokens
        self.predicted_drafted += stats.drafted_by[PREDICTED]
        self.predicted_accepted += stats.accepted_by[PREDICTED]


@dataclass(slots=True)
class Bench:
    """Answers prompts one by one."""

    core: EngineCore
    args: argparse.Namespace
    _count: int = 0

    def answer(
        self, prompt: Sequence[int], policy: str, prediction: Sequence[int], cell: Cell | None
    ) -> list[int]:
        self._count += 1
        params = SamplingParams(max_tokens=self.args.num_tokens, temperature=0.0)
        self.core.add(
            Request(
                f"{self._count}",
                tuple(prompt),
                params,
                0,
                SpeculationParams(policy),
                prediction=tuple(prediction),
            )
        )
        tokens: list[int] = []
        begin = end = 0.0
        while self.core.has_work:
            for one in self.core.step():
                assert one.error is None, one.error
                tokens += one.new_token_ids
                end = time.perf_counter()
                begin = begin or end
                if one.finish_reason is not None and cell is not None:
                    cell.count(len(tokens) - 1, end - begin, one)
        return tokens


def edited(text: str, num_edits: int, seed: int) -> str:
    """Replaces, removes and inserts words in turns, at places of the text that are far apart."""
    words = text.split(" ")
    chosen = random.Random(seed)
    stride = max(1, len(words) // (num_edits + 1))
    for number in range(num_edits, 0, -1):  # from the end, so that places stay where they are
        place = number * stride
        new = [chosen.choice(words) for _ in range(2)]
        kind = number % 3
        words[place : place + (0 if kind == 2 else 2)] = new if kind != 1 else []
    return " ".join(words)


def predictions(
    tokenizer: Any, answers: Sequence[list[int]], num_edits: int
) -> list[dict[str, list[int]]]:
    """What each side expects of each prompt's answer."""

    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    texts = [tokenizer.decode(one, skip_special_tokens=True) for one in answers]
    return [
        {
            "off": [],
            "none": [],
            "same": encoded(text),
            "edited": encoded(edited(text, num_edits, seed)),
            "other": encoded(texts[seed - 1]),
        }
        for seed, text in enumerate(texts)
    ]


def run_round(
    bench: Bench,
    prompts: Sequence[list[int]],
    expected: Sequence[Mapping[str, list[int]]],
    answers: Sequence[list[int]],
    number: int,
) -> list[Cell]:
    """Every side once; who begins changes from round to round."""
    turn = number % len(SIDES)
    cells = []
    for side in (*SIDES[turn:], *SIDES[:turn]):
        cell = Cell(number, side)
        for prompt, texts, answer in zip(prompts, expected, answers, strict=True):
            policy = "off" if side == "off" else bench.args.policy
            cell.different += bench.answer(prompt, policy, texts[side], cell) != answer
        cells.append(cell)
    return cells


def report(cells: Sequence[Cell], num_prompts: int) -> str:
    """A row for each side: medians over rounds, lowest and highest in brackets."""
    by_side = {side: [one for one in cells if one.side == side] for side in SIDES}
    base = [one.speed for one in by_side["none"]]
    lines = [
        "| side | tokens/s | over `none` | tokens a step | of the prediction: accepted / drafted "
        f"| other answers of {num_prompts * len(base)} |",
        "|---|---|---|---|---|---|",
    ]
    for side, mine in by_side.items():
        speeds = [one.speed for one in mine]
        tokens, steps = sum(one.tokens for one in mine), sum(one.steps for one in mine)
        accepted = sum(one.predicted_accepted for one in mine)
        drafted = sum(one.predicted_drafted for one in mine)
        lines.append(
            f"| `{side}` | {median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f}) "
            f"| {ratio(speeds, base)} | {tokens / steps:.2f} | {accepted} / {drafted} "
            f"| {sum(one.different for one in mine)} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    config = EngineConfig(
        model=args.model,
        dtype=args.dtype,
        drafter=args.drafter,
        profile=args.profile,
        kv_cache_tokens=16384,
        max_draft_rows=args.max_draft_rows,
    )
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    bench = Bench(core, args)
    prompts = [chat_ids(tokenizer, PROMPTS[number]) for number in args.prompts]
    answers = [bench.answer(one, "off", (), None) for one in prompts]
    expected = predictions(tokenizer, answers, args.num_edits)
    runs = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    done = sum(one["provenance"]["arguments"]["rounds"] for one in runs)
    cells: list[Cell] = []
    for number in tqdm(range(args.rounds + args.warmup), unit="round"):
        found = run_round(bench, prompts, expected, answers, done + number)
        cells += found if number >= args.warmup else []
    runs.append(
        {
            "provenance": provenance("cast_bench.prediction", args),
            "cells": [asdict(one) for one in cells],
        }
    )
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n")
    everything = [Cell(**cell) for one in runs for cell in one["cells"]]
    print(report(everything, len(prompts)))
    return int(args.dtype == "float32" and any(one.different for one in cells))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench prediction", description=__doc__)
    add = parser.add_argument
    add("--prompts", type=int, nargs="+", default=[0, 5, 12], help="numbers of built-in prompts")
    add("--num-tokens", type=int, default=128, help="of each answer, at most")
    add("--num-edits", type=int, default=4, help="of each answer")
    add("--policy", default="cast")
    add("--drafter", default="auto")
    add("--rounds", type=int, default=3, help="intervals of fewer than five are too narrow")
    add("--warmup", type=int, default=1, help="rounds that do not count")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--model", default="smollm2-135m-instruct")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--profile", default="auto", help="what steps cost: auto, guess or a file")
    add("--max-draft-rows", type=int, default=64)
    add("--json", type=Path, help="add every cell to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
