"""Draft policies against each other, on the same requests, in one engine, in turns.

A cell is a data set, a batch size and a policy. Its requests run closed-loop: as one ends, the next
begins. What counts are steps that only decode, with the batch full: tokens over seconds. So prefill
favours nobody. What the tail of a cell would change, where fast requests have ended, shows in the
ratio of whole times beside it. Prompts are in the prefix cache before the first round, and every
policy has had a round that does not count, in which those that learn have learnt.

`--resume` goes on after the last whole round of a run that was killed.

Outputs are compared with those of `off`, request by request. In float32 a difference fails the run;
in bfloat16 near ties are expected, and `cast_bench.lossless` judges them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from cast_bench.policy_cells import Cell
from cast_bench.policy_document import Document, resumed
from cast_bench.policy_report import print_report, worst_ratio
from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.workloads import questions
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.meter import StepRecord
from cast_server.engine.request import (
    Request,
    RequestOutput,
    SamplingParams,
    SpeculationParams,
)
from cast_server.model_files import load_model, resolve_model

_WAVES: Final = 2  # times that a cell's batch is filled, at least
MIXED: Final = "mixed"


@dataclass(slots=True)
class Bench:
    """Runs cells on one engine."""

    core: EngineCore
    args: argparse.Namespace
    _count: int = 0

    def run(self, cell: Cell, prompts: Sequence[list[int]], num_tokens: int) -> list[list[int]]:
        """Fills in the cell. Returns the outputs, in order of the requests."""
        waiting = list(range(num_requests(cell.batch_size, len(prompts))))
        outputs: list[list[int]] = [[] for _ in waiting]
        names: dict[str, int] = {}
        begin = time.perf_counter()
        while waiting or names:
            while waiting and len(names) < cell.batch_size:
                index = waiting.pop(0)
                ids = prompts[index % len(prompts)]
                names[self._add(index, ids, cell.policy, num_tokens)] = index
            for one in self._step(cell, is_full=len(names) == cell.batch_size):
                assert one.error is None, one.error  # the engine goes on without it; we must not
                outputs[names[one.request_id]].extend(one.new_token_ids)
                if one.finish_reason is not None:
                    del names[one.request_id]
        cell.whole_seconds = time.perf_counter() - begin
        cell.whole_tokens = sum(map(len, outputs))
        return outputs

    def fill_cache(self, prompts: Sequence[list[int]]) -> None:
        """So that every side finds its prompts computed."""
        for ids in prompts:
            self._add(0, ids, "off", num_tokens=1)
        while self.core.has_work:
            self.core.step()

    def _add(self, index: int, ids: list[int], policy: str, num_tokens: int) -> str:
        self._count += 1
        name = f"{self._count}"
        params = SamplingParams(
            max_tokens=num_tokens, temperature=self.args.temperature, ignore_eos=True
        )
        seed = self.args.seed + index
        self.core.add(Request(name, tuple(ids), params, seed, SpeculationParams(policy)))
        return name

    def _step(self, cell: Cell, is_full: bool) -> list[RequestOutput]:
        meter = self.core.planner.meter
        steps_before, begin = meter.steps, time.perf_counter()
        news = self.core.step()
        seconds = time.perf_counter() - begin
        if meter.steps == steps_before:
            return news  # a prompt was read
        tokens = sum(len(one.new_token_ids) for one in news)
        cell.decode_tokens += tokens
        cell.decode_seconds += seconds
        if is_full:
            cell.tokens += tokens
            cell.seconds += seconds
            _count(cell, meter.recent[-1])
        return news


def _count(cell: Cell, record: StepRecord) -> None:
    cell.steps += 1
    cell.predicted_seconds += record.predicted
    cell.draft_tokens += record.nodes
    cell.accepted += record.accepted
    cell.expected += record.expected
    cell.errors.append(round(abs(record.predicted - record.seconds) / record.seconds, 4))


def num_requests(batch_size: int, num_prompts: int) -> int:
    """Whole batches: at least two, and enough for every prompt to have its turn."""
    return max(_WAVES, -(-num_prompts // batch_size)) * batch_size


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    document = _document(args)
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
    run_all(Bench(core, args), sets, document)
    cells = document.cells
    bases = dict.fromkeys(("off", *args.against))
    report = print_report(cells, args.policy, tuple(bases), args.by_set)
    if args.markdown:
        args.markdown.write_text(report)
    are_same = not any(cell.different for cell in cells)
    # Not `<`: a cell in which nothing was counted has no ratio, and must not pass.
    is_slow = args.fail_under > 0 and not worst_ratio(cells) >= args.fail_under
    return int((args.dtype == "float32" and not are_same) or is_slow)


def _document(args: argparse.Namespace) -> Document:
    try:
        return resumed(args) if args.resume else Document(args)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def read_sets(args: argparse.Namespace, tokenizer: Any) -> dict[str, list[list[int]]]:
    """Prompts by data set; with --mixed all of them in one, taken in turns."""
    texts = {path.stem: questions.read(path, args.num_prompts) for path in args.dataset}
    texts = texts or {"built-in": list(PROMPTS[: args.num_prompts])}
    sets = {name: [chat_ids(tokenizer, text) for text in some] for name, some in texts.items()}
    if not args.mixed:
        return sets
    longest = max(map(len, sets.values()))
    return {MIXED: [some[i] for i in range(longest) for some in sets.values() if i < len(some)]}


def run_all(bench: Bench, sets: dict[str, list[list[int]]], document: Document) -> None:
    """Adds the cells that are missing. Results so far are written after every round."""
    args = bench.args
    missing = range(document.rounds + 1, args.rounds + 1)
    if not missing:
        return
    document.begin()
    for prompts in sets.values():
        bench.fill_cache(prompts)
    total = (len(missing) + 1) * len(sets) * len(args.batch_size) * len(args.policy)
    with tqdm(total=total, unit="cell") as progress:
        for number in (0, *missing):
            cells = list(run_round(bench, sets, number, progress))
            if not number:
                continue  # it only warms up
            document.cells += cells
            calibration = bench.core.drafter.calibration.report
            document.calibration = {"error": calibration.error, "tenths": calibration.table()}
            if args.json:
                document.write()


def run_round(
    bench: Bench, sets: dict[str, list[list[int]]], number: int, progress: tqdm
) -> Iterator[Cell]:
    """Round 0 is the one that does not count."""
    args = bench.args
    turn = number % len(args.policy)
    order = (*args.policy[turn:], *args.policy[:turn])
    num_tokens = args.num_tokens if number else args.warmup or args.num_tokens
    for batch_size in args.batch_size:
        for name, prompts in sets.items():
            cells = [Cell(name, batch_size, policy, number) for policy in order]
            outputs: dict[str, list[list[int]]] = {}
            for cell in cells:
                outputs[cell.policy] = bench.run(cell, prompts, num_tokens)
                progress.update(1)
                progress.set_postfix_str(f"{cell.policy} at {batch_size}: {cell.speed:.0f}/s")
            for cell in cells:
                cell.compare(outputs[cell.policy], outputs["off"], len(prompts))
            yield from cells


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench policies", description=__doc__)
    add = parser.add_argument
    add("--policy", type=_names, default=["off", "cast"])
    add("--grid", type=_names, default=[], help="more policies: shapes to find the best one of")
    add("--against", type=_names, default=[], help="policies to compare with, beside off")
    add("--batch-size", type=_numbers, default=[1, 2, 4, 8, 16, 32])
    add("--dataset", type=Path, nargs="+", default=[], help="files of questions (JSON lines)")
    add("--mixed", action="store_true", help="all data sets as one, in turns")
    add("--num-prompts", type=int, default=20, help="of each data set")
    add("--num-tokens", type=int, default=48, help="of each answer")
    add("--rounds", type=int, default=3, help="intervals of fewer than five are too narrow")
    add("--warmup", type=int, help="tokens of answers in the round that does not count")
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
    add("--resume", action="store_true", help="go on with what --json holds")
    add("--by-set", action="store_true", help="a table for every data set too")
    add("--markdown", type=Path, help="write the table to this file")
    add("--fail-under", type=float, default=0.0, help="exit status 1 if a ratio to off is lower")
    args = parser.parse_args(argv)
    if "off" not in args.policy:
        parser.error("--policy needs off: it is what the others are compared with")
    args.policy = list(dict.fromkeys([*args.policy, *args.grid]))
    if unknown := set(args.against) - set(args.policy):
        parser.error(f"--against {', '.join(sorted(unknown))}: not among the policies to run")
    if args.resume and not args.json:
        parser.error("--resume needs --json: the file to go on with")
    return args


if __name__ == "__main__":
    sys.exit(main())
