"""Decode strategies against plain decoding: how much faster here, how sure, and the same tokens?

An iteration is one batch of prompts, begun together and run to its last token, by one policy. In
every round all policies have the same prompts, in turns and in another order, so that a machine
that drifts treats all alike; the next round has the next prompts. Nothing of a prompt is computed
before its turn, unless --prefix-caching says so. Outputs are compared with those of `off`, token by
token, and `cast_bench.lossless` tells near ties from bugs.

--resume goes on with a run that was killed: files are written whenever a batch size has had its
round.

The exit status is 1 for an output that differs beyond rounding, and with --fail-under for a policy
(`cast`, or all where it does not run) whose mean request is slower than that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from cast_bench.latency.batches import BatchRunner, Turn
from cast_bench.latency.document import Document, resumed
from cast_bench.latency.iteration import Iteration
from cast_bench.latency.judging import Judge
from cast_bench.latency.verdict import passes
from cast_bench.workloads import SYNTHETIC, TASKS, Prompt, Wish, in_turns, load
from cast_drafters.policy import parse_policy
from cast_profiler.device import energy
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.errors import ConfigError
from cast_server.model_files import load_model, resolve_model

_LEAST_CACHE: Final = 16384  # tokens: what a first start's quick profile would like to have
_DRAFT_ROOM: Final = 128  # tokens of cache a sequence, for drafts and half-full blocks


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    document = resumed(args) if args.resume else Document(args)
    if document.missing:
        _measure(args, document)
    print(document.markdown())
    print(document.verdict)
    document.write()
    return int(not passes(document.iterations, args.policy, args.fail_under))


def _measure(args: argparse.Namespace, document: Document) -> None:
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    prompts = read_prompts(args, tokenizer)
    config = _config(args, max(len(one.token_ids) for one in prompts))
    core = build_core(config, model, tokenizer)
    check_lengths(core, prompts, args.output_len)
    prepare(core, config)
    _, document.no_energy = energy(core.runner.device)
    runner = BatchRunner(
        core, prompts, args.output_len, args.temperature, args.seed, args.save_detailed
    )
    judge = Judge(core, prompts, args.temperature == 0.0, args.dtype)
    document.begin()
    run_all(runner, judge, document)


def run_all(runner: BatchRunner, judge: Judge, document: Document) -> None:
    """Adds the iterations that are missing."""
    args = document.args
    missing = document.missing
    sizes = sorted({size for _, size in missing}, key=args.batch_size.index)
    warmup = [(-number, size) for number in range(args.warmup) for size in sizes]
    with tqdm(total=len(args.policy) * len([*warmup, *missing]), unit="batch") as progress:
        for number, size in [*warmup, *missing]:
            done = run_round(runner, judge, args.policy, (number, size), progress)
            if number > 0:
                document.iterations += done
                document.write()


def run_round(
    runner: BatchRunner,
    judge: Judge,
    policies: Sequence[str],
    place: tuple[int, int],
    progress: tqdm,
) -> list[Iteration]:
    """All policies at (round, batch size); rounds below 1 do not count, and nobody looks at their
    outputs."""
    number, size = place
    first = number % len(policies)
    done, outputs = [], {}
    for policy in (*policies[first:], *policies[:first]):
        progress.set_postfix_str(
            f"{policy} at {size}, {f'round {number}' if number > 0 else 'warm-up'}"
        )
        iteration, outputs[policy] = runner.run(Turn(policy, size, number))
        done.append(iteration)
        progress.update()
    if number <= 0:
        return done
    return [_judged(one, judge, outputs) for one in done]


def _judged(one: Iteration, judge: Judge, outputs: dict[str, list[list[int]]]) -> Iteration:
    found = judge.differences(one.prompts, outputs[one.policy], outputs["off"])
    return one.model_copy(update={"differences": found})


def read_prompts(args: argparse.Namespace, tokenizer: Any) -> list[Prompt]:
    """Of all data sets, in turns."""
    wish = Wish(args.num_prompts, args.input_len, args.prefix_len, args.seed)
    return in_turns(load([str(name) for name in args.dataset], wish, tokenizer))


def check_lengths(core: EngineCore, prompts: Sequence[Prompt], output_len: int) -> None:
    """Raises `ConfigError` for a prompt that leaves no room for its answer."""
    limit = core.scheduler.limits.max_model_len
    longest = max(prompts, key=lambda one: len(one.token_ids))
    if len(longest.token_ids) + output_len > limit:
        raise ConfigError(
            f"--output-len {output_len} and the longest prompt of {longest.dataset} "
            f"({len(longest.token_ids)} tokens) are more than the model's {limit}."
        )


def _config(args: argparse.Namespace, longest: int) -> EngineConfig:
    largest = max(args.batch_size)
    needed = largest * (longest + args.output_len + _DRAFT_ROOM)
    return EngineConfig(
        model=args.model,
        dtype=args.dtype,
        device=args.device,
        drafter=args.drafter,
        head=args.head,
        profile=args.profile,
        policy="off",
        kv_cache_tokens=args.kv_cache_tokens or max(_LEAST_CACHE, needed),
        max_num_seqs=largest,
        max_batched_tokens=max(512, 64 * largest),
        max_draft_rows=args.max_draft_rows,
        prefix_caching=args.prefix_caching,
    )


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(text.split(",")))


def _sizes(text: str) -> list[int]:
    return sorted({_positive(one) for one in text.split(",")})


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cast-bench latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_flags(parser)
    args = parser.parse_args(argv)
    if "off" not in args.policy:
        parser.error("--policy needs off: it is what the others are compared with")
    if args.resume and not args.json:
        parser.error("--resume needs --output-json: the file to go on with")
    for policy in args.policy:
        try:
            parse_policy(policy)
        except ValueError as error:
            parser.error(f"--policy: {error}")
    return args


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="built-in name, directory or .gguf file")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--device", default="auto", help="cpu, cuda …; auto takes a GPU if there is one")
    add("--drafter", default="auto", help="where guesses come from")
    add("--head", help="directory of the draft head (default: the shipped one)")
    add("--profile", default="auto", help="what steps cost: auto, guess or a file")
    add("--policy", type=_names, default=["off", "cast"], help="as in off,chain:4,eagle2,cast")
    add("--batch-size", type=_sizes, default=[1, 8, 32], help="as in 1,8,32")
    known = ", ".join([*TASKS, *SYNTHETIC])
    add(
        "--dataset",
        type=Path,
        nargs="+",
        default=[Path(task) for task in TASKS],
        help=f"of {known}; .jsonl files of questions, .json files of ShareGPT's form",
    )
    add("--num-prompts", type=_positive, default=20, help="of each data set, at most")
    add("--input-len", type=_positive, default=32, help="tokens of a made-up prompt")
    add("--prefix-len", type=_positive, default=256, help="tokens that shared-prefix ones share")
    add("--output-len", type=_positive, default=128, help="tokens of every answer")
    add("--num-iters", "--rounds", type=_positive, default=5, help="rounds that count")
    add("--warmup", "--num-iters-warmup", type=int, default=1, help="rounds that do not")
    add("--temperature", type=float, default=0.0)
    add("--seed", type=int, default=0)
    add("--threads", type=_positive, default=torch.get_num_threads())
    add("--prefix-caching", action="store_true", help="reuse what is known of equal beginnings")
    add("--kv-cache-tokens", type=_positive, help="default: enough for the largest batch")
    add("--max-draft-rows", type=_positive, default=2048)
    add("--output-json", "--json", dest="json", type=Path, metavar="FILE", help="all there is")
    add("--markdown", type=Path, metavar="FILE", help="the table")
    add("--html", type=Path, metavar="FILE", help="a page with drawings")
    add("--save-detailed", action="store_true", help="every output and the time of every token")
    add("--resume", action="store_true", help="go on with what --output-json holds")
    add(
        "--fail-under",
        type=float,
        default=0.0,
        metavar="RATIO",
        help="exit status 1 if the whole interval of the mean request's ratio is lower",
    )


if __name__ == "__main__":
    sys.exit(main())
