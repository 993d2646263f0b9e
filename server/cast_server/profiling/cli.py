"""The `cast-profile` command: what steps of a model cost on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from pydantic import ValidationError

from cast_profiler.profile import Profile
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.errors import CastError, ConfigError
from cast_server.model_files import load_model, resolve_model
from cast_server.profiling.identity import fingerprint_of
from cast_server.profiling.measuring import QUICK, Effort, measure_profile
from cast_server.profiling.page import to_html
from cast_server.profiling.stored import checked_profile, stored_path
from cast_server.profiling.table import compare, describe

_INTRO = """\
Measures what a step costs on this machine: passes of the target over 1 to 64 rows, and levels of
its drafter, in the engine that serves. Tree builders decide by it how far to speculate.

The server measures a short profile by itself at its first start; this takes a thorough one in its
place. Let nothing else run meanwhile."""

_EXAMPLES = """\
commands (run is the default, each has its own --help):
  run                measure, print the table, keep the profile where the server looks for it
  show FILE          print a profile
  compare A B        ratio of two profiles, point by point
  check [FILE]       does the profile fit this machine? exit status 0 if so, else 1

examples:
  cast-profile                                      the built-in model, one minute
  cast-profile --quick                              a few seconds
  cast-profile --model ./my-model --threads 4 --html costs.html
  cast-profile --out before.json                    keep it elsewhere
  cast-profile compare before.json after.json
"""

_ENGINE_FLAGS: Final = (
    "model",
    "dtype",
    "device",
    "threads",
    "kernels",
    "cuda_graphs",
    "drafter",
    "head",
    "kv_cache_tokens",
    "max_num_seqs",
    "max_draft_rows",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for a profile that does not fit, 2 for a wrong setting."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in (*_COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    args = _parser().parse_args(words)
    try:
        return _COMMANDS[args.command](args)
    except (CastError, ValueError, OSError) as error:
        print(f"cast-profile: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cast-profile: interrupted; nothing was written", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    core = _engine(config)
    effort = QUICK if args.quick else Effort(contexts=tuple(sorted(set(args.contexts))))
    budget = args.budget if args.budget is not None else effort.budget_seconds
    effort = Effort(budget, args.max_rows, effort.contexts, effort.quick)
    profile = measure_profile(core, config, effort)
    path = args.out or stored_path(profile.fingerprint)
    profile.save(path)
    print(describe(profile))
    print(f"\nThe profile is in {path}.")
    return _write_page(profile, args.html)


def _show(args: argparse.Namespace) -> int:
    profile = Profile.load(args.file)
    print(describe(profile))
    return _write_page(profile, args.html)


def _compare(args: argparse.Namespace) -> int:
    print(compare(Profile.load(args.a), Profile.load(args.b)))
    return 0


def _check(args: argparse.Namespace) -> int:
    config = _config(args)
    fingerprint = fingerprint_of(_engine(config), config)
    path = args.file or stored_path(fingerprint)
    if args.file is None and not path.exists():
        print("Nothing has been measured for this model on this machine: run cast-profile.")
        return 1
    try:
        profile = checked_profile(path, fingerprint)
    except ConfigError as error:
        print(error)
        return 1
    print(f"{path} fits: measured {profile.provenance.get('date', 'at an unknown time')}.")
    return 0


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = MappingProxyType(
    {"run": _run, "show": _show, "compare": _compare, "check": _check}
)


def _write_page(profile: Profile, page: Path | None) -> int:
    if page is not None:
        page.write_text(to_html(profile))
        print(f"The page is in {page}.")
    return 0


def _config(args: argparse.Namespace) -> EngineConfig:
    given = {name: getattr(args, name) for name in _ENGINE_FLAGS if hasattr(args, name)}
    try:
        return EngineConfig(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        flag = str(fault["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{flag} {fault['input']}: {fault['msg']}") from None


def _engine(config: EngineConfig) -> EngineCore:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dtype = getattr(torch, "bfloat16" if config.dtype == "auto" else config.dtype)
    return build_core(config, *load_model(resolve_model(config.model), dtype))


def _parser() -> argparse.ArgumentParser:
    layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
    parser = argparse.ArgumentParser(
        prog="cast-profile",
        usage="cast-profile [command] [flags]",
        description=_INTRO,
        epilog=_EXAMPLES,
        formatter_class=layout,
    )
    commands = parser.add_subparsers(dest="command", required=True, help=argparse.SUPPRESS)
    run = commands.add_parser("run", formatter_class=layout, description=_INTRO)
    add = run.add_argument
    add("--budget", type=_positive(float), metavar="SECONDS", help="time to spend (default: 60)")
    add("--quick", action="store_true", help="fewer points, 4.5 seconds: what the server does")
    add(
        "--max-rows",
        type=_positive(int),
        default=64,
        metavar="N",
        help="largest pass (default: 64)",
    )
    add(
        "--contexts",
        type=_positive(int),
        nargs="+",
        default=[256, 1024, 4096],
        metavar="N",
        help="tokens of context; most is measured at the least (default: 256 1024 4096)",
    )
    add("--out", type=Path, metavar="FILE", help="default: where the server looks for it")
    _add_engine_flags(run)
    show = commands.add_parser("show", description="Prints a profile.")
    show.add_argument("file", type=Path)
    for command in (run, show):
        command.add_argument("--html", type=Path, metavar="FILE", help="also as a page with curves")
    both = commands.add_parser("compare", description="Prints seconds of B over those of A.")
    both.add_argument("a", type=Path)
    both.add_argument("b", type=Path)
    check = commands.add_parser("check", description="Tells whether a profile fits this machine.")
    check.add_argument("file", type=Path, nargs="?", help="default: the one the server would use")
    _add_engine_flags(check)
    return parser


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `cast-serve` that a profile depends on."""
    group = parser.add_argument_group("engine, as for cast-serve")
    for name in _ENGINE_FLAGS:
        text = EngineConfig.model_fields[name].description or ""
        group.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            metavar=name.split("_")[-1].upper(),
        )


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main())
