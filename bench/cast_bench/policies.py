"""Draft policies against each other, on the same requests, in one engine, in turns.

A cell is a data set, a batch size and a policy. Its requests run closed-loop: as one ends, the next
begins. What counts are steps that only decode, with the batch full: tokens over seconds. So neither
prefill nor the tail of a cell, where fast requests have ended, favours anybody. Prompts are in the
prefix cache before the first round, and every policy has had a round that does not count, in which
those that learn have learnt.

Outputs are compared with those of `off`, request by request. In float32 a difference fails the run;
in bfloat16 near ties are expected, and `cast_bench.lossless` judges them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from cast_bench.acceptance import read_questions
from cast_bench.policy_report import print_report, worst_ratio
from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model

_WAVES: Final = 2  # times that a cell's batch is filled
MIXED: Final = "mixed"


@dataclass(slots=True)
class Cell:
    """What one policy did in one round; seconds and counts of full, decoding steps."""

    dataset: str
    batch_size: int
    policy: str
    round: int
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    predicted_seconds: float = 0.0
    draft_tokens: int = 0
    accepted: int = 0
    expected: float = 0.0
    errors: list[float] = field(default_factory=list)  # |predicted - actual| / actual, a step
    different: int = 0  # outputs that are not those of `off`

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Bench:
    """Runs cells on one engine."""

    core: EngineCore
    args: argparse.Namespace
    _count: int = 0

    def run(self, cell: Cell, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Fills in the cell. Returns the outputs, in order of the requests."""
        waiting = list(range(_WAVES * cell.batch_size))
        outputs: list[list[int]] = [[] for _ in waiting]
        names: dict[str, int] = {}
        meter = self.core.planner.meter
        while waiting or names:
            while waiting and len(names) < cell.batch_size:
                index = waiting.pop(0)
                names[self._add(index, prompts[index % len(prompts)], cell.policy)] = index
            is_full = len(names) == cell.batch_size
            steps_before, begin = meter.steps, time.perf_counter()
            news = self.core.step()
            seconds = time.perf_counter() - begin
            tokens = sum(len(one.new_token_ids) for one in news)
            if is_full and meter.steps > steps_before:
                self._count_step(cell, seconds, tokens)
            for one in news:
                outputs[names[one.request_id]].extend(one.new_token_ids)
                if one.finish_reason is not None:
                    del names[one.request_id]
        return outputs

    def fill_cache(self, prompts: Sequence[list[int]]) -> None:
        """So that every side finds its prompts computed."""
        for ids in prompts:
            self._add(0, ids, "off", max_tokens=1)
        while self.core.has_work:
            self.core.step()

    def _add(self, index: int, ids: list[int], policy: str, max_tokens: int | None = None) -> str:
        self._count += 1
        name = f"{self._count}"
        params = SamplingParams(
            max_tokens=max_tokens or self.args.num_tokens,
            temperature=self.args.temperature,
            ignore_eos=True,
        )
        seed = self.args.seed + index
        self.core.add(Request(name, tuple(ids), params, seed, SpeculationParams(policy)))
        return name

    def _count_step(self, cell: Cell, seconds: float, tokens: int) -> None:
        record = self.core.planner.meter.recent[-1]
        cell.tokens += tokens
        cell.seconds += seconds
        cell.steps += 1
        cell.predicted_seconds += record.predicted
        cell.draft_tokens += record.nodes
        cell.accepted += record.accepted
        cell.expected += record.expected
        cell.errors.append(round(abs(record.predicted - record.seconds) / record.seconds, 4))


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    config = EngineConfig(
        model=args.model,
        dtype=args.dtype,
        drafter=args.drafter,
        head=args.head,
        profile=args.profile,
        policy="off",
        kv_cache_tokens=args.kv_cache_tokens,
        max_num_seqs=max(args.batch_size),
        max_batched_tokens=max(512, 64 * max(args.batch_size)),
        max_draft_rows=args.max_draft_rows,
    )
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    sets = read_sets(args, tokenizer)
    cells = list(run_all(Bench(core, args), sets))
    report = print_report(cells, args.policy)
    if args.markdown:
        args.markdown.write_text(report)
    are_same = not any(cell.different for cell in cells)
    return int((args.dtype == "float32" and not are_same) or worst_ratio(cells) < args.fail_under)


def read_sets(args: argparse.Namespace, tokenizer: Any) -> dict[str, list[list[int]]]:
    """Prompts by data set; with --mixed all of them in one, taken in turns."""
    texts = {path.stem: read_questions(path, args.num_prompts) for path in args.dataset}
    texts = texts or {"built-in": list(PROMPTS)}
    sets = {name: [chat_ids(tokenizer, text) for text in some] for name, some in texts.items()}
    if not args.mixed:
        return sets
    longest = max(map(len, sets.values()))
    return {MIXED: [some[i] for i in range(longest) for some in sets.values() if i < len(some)]}


def run_all(bench: Bench, sets: dict[str, list[list[int]]]) -> Iterator[Cell]:
    """Round 0 does not count. Results so far are written after every round."""
    args = bench.args
    cells: list[Cell] = []
    total = (args.rounds + 1) * len(sets) * len(args.batch_size) * len(args.policy)
    for prompts in sets.values():
        bench.fill_cache(prompts)
    with tqdm(total=total, unit="cell") as progress:
        for number in range(args.rounds + 1):
            for batch_size in args.batch_size:
                for name, prompts in sets.items():
                    outputs: dict[str, list[list[int]]] = {}
                    turn = number % len(args.policy)
                    for policy in (*args.policy[turn:], *args.policy[:turn]):
                        cell = Cell(name, batch_size, policy, number)
                        outputs[policy] = bench.run(cell, prompts)
                        progress.update(1)
                        progress.set_postfix_str(f"{policy} at {batch_size}: {cell.speed:.0f}/s")
                        if number:
                            cells.append(cell)
                    for cell in cells[-len(args.policy) :] if number else ():
                        pairs = zip(outputs[cell.policy], outputs["off"], strict=True)
                        cell.different = sum(one != other for one, other in pairs)
            if args.json and number:
                _write(args, bench.core, cells)
    yield from cells


def _write(args: argparse.Namespace, core: EngineCore, cells: Sequence[Cell]) -> None:
    calibration = core.drafter.calibration.report
    document = {
        "provenance": provenance("cast_bench.policies", args),
        "rounds": max(cell.round for cell in cells),
        "calibration": {"error": calibration.error, "tenths": calibration.table()},
        "cells": [asdict(cell) for cell in cells],
    }
    scratch = args.json.with_suffix(".new")
    scratch.write_text(json.dumps(document) + "\n")
    scratch.replace(args.json)


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cast_bench.policies", description=__doc__)
    add = parser.add_argument
    add("--policy", type=lambda text: text.split(","), default=["off", "cast"])
    add("--batch-size", type=_numbers, default=[1, 2, 4, 8, 16, 32])
    add("--dataset", type=Path, nargs="+", default=[], help="files of questions (JSON lines)")
    add("--mixed", action="store_true", help="all data sets as one, in turns")
    add("--num-prompts", type=int, default=20, help="of each data set")
    add("--num-tokens", type=int, default=48, help="of each answer")
    add("--rounds", type=int, default=3)
    add("--temperature", type=float, default=0.0)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--model", default="smollm2-135m-instruct")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--drafter", default="auto")
    add("--head", help="directory of the draft head (default: the shipped one)")
    add("--profile", default="auto", help="what steps cost: auto, guess or a file")
    add("--kv-cache-tokens", type=int, default=98304)
    add("--max-draft-rows", type=int, default=2048)
    add("--json", type=Path, help="write every cell to this file, after each round")
    add("--markdown", type=Path, help="write the table to this file")
    add("--fail-under", type=float, default=0.0, help="exit status 1 if a ratio to off is lower")
    args = parser.parse_args(argv)
    if "off" not in args.policy:
        parser.error("--policy needs off: it is what the others are compared with")
    return args


if __name__ == "__main__":
    sys.exit(main())
