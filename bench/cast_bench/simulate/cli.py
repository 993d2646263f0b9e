"""What would each policy give on other hardware? Recorded drafts replayed against any cost profile.

`record` runs a model on prompts and writes what its drafter would have proposed at every position.
`run` replays that with the real builders and planner, in simulated seconds: those of a measured
profile, or floors computed from data sheets. `validate` sets simulated figures beside those that
`cast-bench policies` has measured on this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from tqdm import tqdm

from cast_bench.policies import read_sets
from cast_bench.provenance import other_arguments, provenance
from cast_bench.simulate.engine import Cell, Simulation
from cast_bench.simulate.hardware import Hardware, Host, hardware
from cast_bench.simulate.page import to_html
from cast_bench.simulate.recorder import Reach
from cast_bench.simulate.recording import record
from cast_bench.simulate.report import OFF, markdown
from cast_bench.simulate.trace import Script, Trace
from cast_bench.simulate.validation import Measured, Pair, median_error, table, validate
from cast_drafters.policy import parse_policy
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.errors import ConfigError
from cast_server.model_files import load_model, resolve_model

_MODULE: Final = "cast_bench.simulate.cli"
_OWN: Final = "prompt"  # the context that prompts have of their own
_FREE: Final = frozenset({"resume"})  # changes nothing of what is recorded
_POLICIES: Final = ["off", "chain:4", "eagle2", "chain-cost", "cast-paper", "cast"]
_EXAMPLES: Final = """\
examples:
  cast-bench simulate record --out drafts.npz --num-prompts 24 --num-tokens 48
  cast-bench simulate run --trace drafts.npz --profile roofline:H100 --model-shape 8B \\
      --batch-size 1,8,64,512 --context 4096,131072 --html h100.html
  cast-bench policies --policy off,chain:4,cast --num-prompts 24 --json measured.json
  cast-bench simulate validate --trace drafts.npz --profile profile.json --measured measured.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return _COMMANDS[args.command](args)


def _record(args: argparse.Namespace) -> int:
    told = provenance(_MODULE, args)
    told["model"] = told["arguments"]["model"]  # by the last part of its path, as it is measured
    known = _known(args, told)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    core = _core(args, model, tokenizer)
    reach = Reach(tuple(sorted(set(args.widths))), args.levels, args.nodes)
    sets = read_sets(args, tokenizer)
    batches = args.batch_size, args.warm_batches
    for trace in record(core, sets, args.num_tokens, reach, told, *batches, known):
        trace.save(args.out)
        print(f"{len(trace.scripts)} answers, {trace.num_nodes} drafted nodes: {args.out}")
    return 0


def _known(args: argparse.Namespace, told: Mapping[str, Any]) -> list[Script]:
    """Answers that an earlier run has recorded, if this one is to go on with them."""
    if not args.resume or not args.out.exists():
        return []
    trace = Trace.load(args.out)
    if other := other_arguments(dict(trace.recorded.provenance), dict(told), _FREE):
        raise ConfigError(f"{args.out.name} was recorded with {other}; choose another --out.")
    return trace.scripts


def _core(args: argparse.Namespace, model: Any, tokenizer: Any) -> EngineCore:
    config = EngineConfig(
        model=args.model,
        dtype=args.dtype,
        drafter=args.drafter,
        head=args.head,
        profile=args.profile,
        policy="off",
        kv_cache_tokens=args.kv_cache_tokens,
        max_num_seqs=max(args.batch_size, *args.warm_batches),
        max_batched_tokens=8192,
        max_draft_rows=2048,
    )
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    return core


def _run(args: argparse.Namespace) -> int:
    args.policy = list(dict.fromkeys([OFF, *args.policy]))  # what the others are compared with
    for policy in args.policy:
        _check(policy)
    trace, device = Trace.load(args.trace), hardware(args.profile, args.model_shape)
    scale = _host_scale(args, device)
    simulation = Simulation(
        trace, device, Host.recorded(trace.recorded.host, scale), args.max_draft_rows
    )
    length = args.num_tokens or max(len(one.token_ids) for one in trace.scripts)
    warmup = length if args.warmup is None else args.warmup
    cells = [
        Cell(dataset, policy, size, context)
        for context, size, dataset, policy in product(
            args.context, args.batch_size, trace.datasets, args.policy
        )
    ]
    for cell in (progress := tqdm(cells, unit="cell", disable=None)):
        progress.set_postfix_str(f"{cell.policy} at {cell.batch_size}")
        simulation.run(cell, length, warmup)
    _write(args, trace, device, markdown(trace, device, scale, cells), cells)
    return 0


def _validate(args: argparse.Namespace) -> int:
    """The exit status is 1 if the median error is above --fail-above."""
    trace, device = Trace.load(args.trace), hardware(args.profile, args.model_shape)
    host = Host.recorded(trace.recorded.host, _host_scale(args, device))
    pairs: list[Pair] = []
    for path in args.measured:
        measured = Measured.load(path)
        measured.check(trace)
        pairs += validate(Simulation(trace, device, host, measured.max_draft_rows), measured)
    report = "\n".join([device.note, "", *table(pairs), ""])
    print(report, end="")
    if args.markdown:
        args.markdown.write_text(report)
    if args.json:
        document = {
            "provenance": provenance(_MODULE, args),
            "trace": trace.recorded.facts,
            "median_error": median_error(pairs),
            "cells": [asdict(one) | {"error": one.error} for one in pairs],
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    # Not `>`: NaN, where nothing was counted, must not pass.
    return int(not median_error(pairs) <= args.fail_above)


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = MappingProxyType(
    {"record": _record, "run": _run, "validate": _validate}
)


def _write(
    args: argparse.Namespace, trace: Trace, device: Hardware, report: str, cells: list[Cell]
) -> None:
    print(report, end="")
    facts: dict[str, Any] = {
        "provenance": provenance(_MODULE, args),
        "hardware": {"name": device.name, "is_computed": device.is_computed, "note": device.note},
        "trace": trace.recorded.facts,
    }
    if args.markdown:
        args.markdown.write_text(report)
    if args.html:
        args.html.write_text(to_html(device.name, device.note, report, cells, facts))
    if args.json:
        document = facts | {"cells": [asdict(one) | {"speed": one.speed} for one in cells]}
        args.json.write_text(json.dumps(document, indent=1) + "\n")


def _host_scale(args: argparse.Namespace, device: Hardware) -> float:
    """A recorded host belongs to a measured profile; floors say nothing of any host."""
    if args.host_scale is not None:
        return float(args.host_scale)
    return 0.0 if device.is_computed else 1.0


def _check(policy: str) -> None:
    try:
        parse_policy(policy)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    numbers = [int(one) for one in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def _contexts(text: str) -> list[int | None]:
    return [None if one == _OWN else _numbers(one)[0] for one in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cast-bench simulate",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_record(commands.add_parser("record", help="write a trace"))
    for name, text in (("run", "replay a trace"), ("validate", "simulated beside measured")):
        command = commands.add_parser(name, help=text)
        add = command.add_argument
        add("--trace", type=Path, required=True, help="what record wrote")
        add("--profile", required=True, help="a file of cast-profile, or roofline:H100 (…x8)")
        add("--model-shape", default="8B", help="of a roofline's target (default: 8B)")
        add("--host-scale", type=float, help="times the recorded host's work (default: 1, "
            "of rooflines 0)")  # fmt: skip
        add("--json", type=Path, help="write every cell to this file")
        add("--markdown", type=Path, help="write the table to this file")
        (_add_run if name == "run" else _add_validate)(command)
    return parser


def _add_record(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the trace, .npz")
    add("--resume", action="store_true", help="go on with what --out holds")
    add("--dataset", type=Path, nargs="+", default=[], help="files of questions (JSON lines)")
    add("--mixed", action="store_true", help="all data sets as one, in turns")
    add("--num-prompts", type=int, default=24, help="of each data set")
    add("--num-tokens", type=int, default=48, help="of each answer")
    add("--widths", type=_numbers, default=[1, 4, 10], help="of drafts: children, nodes a level")
    add("--levels", type=int, default=8, help="passes of the drafter, at most")
    add("--nodes", type=int, default=64, help="of each draft")
    add("--batch-size", type=int, default=8, help="answers at a time")
    add(
        "--warm-batches",
        type=_numbers,
        default=[1, 4, 16],
        help="where the host's work is measured",
    )
    add("--threads", type=int, default=torch.get_num_threads())
    add("--model", default="smollm2-135m-instruct")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--drafter", default="auto")
    add("--head", help="directory of the draft head (default: the shipped one)")
    add("--profile", default="auto", help="what steps cost while recording: auto, guess or a file")
    add("--kv-cache-tokens", type=int, default=32768)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--policy", type=_names, default=_POLICIES, help=f"default: {','.join(_POLICIES)}")
    add("--batch-size", type=_numbers, default=[1, 4, 16, 64], help="1 to 512 and beyond")
    add("--context", type=_contexts, default=[None], help=f"tokens, or {_OWN}: the prompts' own")
    add("--num-tokens", type=int, help="of each answer (default: all that were recorded)")
    add("--warmup", type=int, help="tokens of answers that do not count (default: as many)")
    add("--max-draft-rows", type=int, default=2048)
    add("--html", type=Path, help="write a page with a drawing to this file")


def _add_validate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--measured", type=Path, nargs="+", required=True, help="files of cast-bench policies "
        "--json")  # fmt: skip
    add("--fail-above", type=float, default=0.1, help="exit status 1 if the median error is larger")


if __name__ == "__main__":
    sys.exit(main())
