"""The `cast-eval` command: the server's evaluators without a server."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from cast_server.config import EngineConfig
from cast_server.errors import CastError, ConfigError
from cast_server.evaluators.offline.report import write_reports
from cast_server.evaluators.offline.texts import read_texts
from cast_server.evaluators.registry import EVALUATORS

_INTRO = """\
Evaluates a model by its hidden states, its drafts and what it knows of itself: the evaluators that
cast-serve offers over HTTP. Beside a second model, by what differs between the two.

Writes results.json, report.md and report.html into --out. Kill it whenever you like: the same
command goes on where it stopped."""

_EXAMPLES = """\
commands (each has its own --help):
  list               what there is to evaluate
  describe ID        what an evaluator measures, and its parameters
  run ID             evaluate

examples:
  cast-eval list
  cast-eval run erank --input texts.jsonl --out before
  cast-eval run erank --input texts.jsonl --out layers --set 'layers=[0, 15, "last_normed"]'
  cast-eval run self_knowledge --out known --set n=20
  cast-eval run erank --input texts.jsonl --out both --model ./mine --baseline-model ./quantised
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for an evaluation that failed, 2 for a wrong setting."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except (CastError, OSError) as error:
        print(f"cast-eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cast-eval: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _list(_: argparse.Namespace) -> int:
    for evaluator in EVALUATORS.values():
        print(f"{evaluator.id}: {evaluator.title}")
    return 0


def _describe(args: argparse.Namespace) -> int:
    evaluator = EVALUATORS[args.evaluator]
    print(f"{evaluator.title}\n\n{evaluator.description}\n")
    print(json.dumps(evaluator.params_type.model_json_schema(), indent=2, ensure_ascii=False))
    return 0


def _run(args: argparse.Namespace) -> int:
    evaluator = EVALUATORS[args.evaluator]
    params = _params(evaluator.params_type, args.set)
    texts = read_texts(args.input) if args.input else []
    args.out.mkdir(parents=True, exist_ok=True)
    models = [args.model, *([args.baseline_model] if args.baseline_model else [])]
    configs = [
        EngineConfig(model=model, dtype=args.dtype, device=args.device, threads=args.threads)
        for model in models
    ]
    # torch and transformers take seconds to import, and --help needs neither.
    from cast_server.evaluators.offline.running import evaluate

    done = asyncio.run(evaluate(configs, evaluator.id, params, texts, args.out))
    for path in write_reports(done, args.out):
        print(path)
    if done.error is not None:
        print(f"cast-eval: {done.error}", file=sys.stderr)
        return 1
    return 0


def _params(kind: type[BaseModel], settings: Sequence[str]) -> Any:
    """From name=value pairs; a value is JSON, or else a word."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: name=value is needed, as in --set n=20.")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise ConfigError(f"--set: {'; '.join(faults)}") from None


def _parser() -> argparse.ArgumentParser:
    shape = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
    parser = argparse.ArgumentParser(
        prog="cast-eval", description=_INTRO, epilog=_EXAMPLES, formatter_class=shape
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="what there is to evaluate")
    ids = sorted(EVALUATORS)
    describe = commands.add_parser("describe", help="what an evaluator measures")
    describe.add_argument("evaluator", choices=ids, metavar="ID", help=", ".join(ids))
    run = commands.add_parser("run", help="evaluate", formatter_class=shape)
    add = run.add_argument
    add("evaluator", choices=ids, metavar="ID", help=", ".join(ids))
    add("--out", type=Path, required=True, help="directory for results and for going on later")
    add(
        "--input",
        type=Path,
        help='texts: JSON lines with "text", or plain text with an empty line between two; '
        "evaluators that ask their own questions take none",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, its value as JSON; see cast-eval describe ID",
    )
    add("--model", default="smollm2-135m-instruct", help="built-in name, directory or .gguf file")
    add("--baseline-model", help="another model, to compare with")
    add("--dtype", default="auto", help="auto (bfloat16), bfloat16, float16 or float32")
    add("--device", default="auto", help="cpu, cuda …; auto takes a GPU if there is one")
    add("--threads", type=int, help="CPU threads; default: torch's choice")
    return parser


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = MappingProxyType(
    {"list": _list, "describe": _describe, "run": _run}
)


if __name__ == "__main__":
    sys.exit(main())
