"""The `cast-bench` command: every benchmark by its name, imported when it is asked for."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Final

from cast_server.errors import CastError

# A new one is a module beside this one, with `main(argv) -> exit status`, and a line here. What the
# help says of it is the first line of its docstring.
COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "acceptance": "cast_bench.acceptance:main",
        "compare": "cast_bench.compare:main",
        "compiled-kernels": "cast_bench.compiled.cli:main",
        "doctor": "cast_bench.doctor.cli:main",
        "draft-cost": "cast_bench.draft_cost:main",
        "grammar-cost": "cast_bench.grammar_cost:main",
        "kernels": "cast_bench.kernels.cli:main",
        "latency": "cast_bench.latency.cli:main",
        "lossless": "cast_bench.lossless:main",
        "paper-thresholds": "cast_bench.paper_thresholds:main",
        "policies": "cast_bench.policies:main",
        "rooflines": "cast_bench.rooflines:main",
        "rounding": "cast_bench.rounding:main",
        "serve": "cast_bench.serve.cli:main",
        "simulate": "cast_bench.simulate.cli:main",
    }
)

_INTRO = """\
Measures, compares and checks castserve on this machine. Whatever takes times prints them and, with
--json, writes every one with what it takes to take it again. Let nothing else run meanwhile."""

_EXAMPLES = """\
examples:
  cast-bench doctor                         is it right on this machine's GPU? a report
  cast-bench latency --policy off,cast      is it faster than plain decoding here, and by how much?
  cast-bench compare --concurrency 1 4      beside transformers and llama.cpp, in turns
  cast-bench lossless --dtype float32       does speculation change a token? exit status 0 if not
  cast-bench serve --max-concurrency 1 4 8  load over HTTP on any OpenAI-compatible server
  cast-bench policies --help                a command's own flags
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the command's exit status: 2 for a wrong setting."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return _command(args.command)(args.flags)
    except CastError as error:
        print(f"cast-bench {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cast-bench {args.command}: interrupted", file=sys.stderr)
        return 130


def _command(name: str) -> Callable[[Sequence[str]], int]:
    module, _, function = COMMANDS[name].partition(":")
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command


def summary(name: str) -> str:
    """The first line of a command's docstring, read without importing it: that may take seconds."""
    spec = find_spec(COMMANDS[name].partition(":")[0])
    assert spec is not None, name
    assert spec.origin is not None, name
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return docstring.partition("\n")[0]


def _listing() -> str:
    width = max(map(len, COMMANDS))
    names = {name: f"  {name:{width}}  " for name in COMMANDS}
    return "\n".join(
        fill(summary(name), 90, initial_indent=begin, subsequent_indent=" " * len(begin))
        for name, begin in names.items()
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cast-bench",
        usage="cast-bench COMMAND [flags]",
        description=_INTRO,
        epilog=f"commands (each has its own --help):\n{_listing()}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=tuple(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    add("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
