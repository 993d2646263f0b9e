"""The command line of `cast-serve`: one flag a field of the configuration, in groups, with help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError

_INTRO = """\
Serves a language model over OpenAI's HTTP API, with speculative decoding that never changes a
token. Without any flag it serves the built-in model on http://127.0.0.1:8000.

Every flag can also be a variable (--max-num-seqs: CASTSERVE_MAX_NUM_SEQS) or a line of a YAML file
(max-num-seqs: 8). A flag goes before the variable, the variable before the file."""

_EXAMPLES = """\
examples:
  a laptop: the built-in model, then a small footprint and nothing measured
    cast-serve
    cast-serve --threads 2 --kv-cache-tokens 8192 --max-num-seqs 4 --profile guess
  a model of your own, in Hugging Face format or as a GGUF file
    cast-serve --model ./my-model --head ./my-head --port 9000
    cast-serve --model my-model.gguf --policy off
  a GPU, for the whole network
    cast-serve --model ./my-model --device cuda --max-num-seqs 64 --host 0.0.0.0
  a second model, for evaluations to compare with
    cast-serve --evaluation-models base=./my-base-model
  will it run here, and in how much memory? a file to start from
    cast-serve --model ./my-model --check
    cast-serve --print-config > castserve.yaml
    cast-serve --config castserve.yaml --port 9000
"""

# What is in none of these is a matter of memory and batching, or of HTTP.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "model": ("model", "dtype", "device", "threads", "kernels", "cuda_graphs"),
        "speculation": (
            "drafter",
            "head",
            "draft_sources",
            "learn_from_traffic",
            "policy",
            "profile",
            "max_draft_rows",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked for instead of serving, if anything; and the file that `--config` names."""

    config: str | None = None
    check: bool = False
    print_config: bool = False
    json: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; cast-serve --help explains all.")


def fields() -> Mapping[str, FieldInfo]:
    """All settings by name, the engine's first."""
    return EngineConfig.model_fields | HttpConfig.model_fields


def groups() -> Iterator[tuple[str, list[str]]]:
    """Titles, and names of fields."""
    grouped = {name for names in _GROUPS.values() for name in names}
    for title, names in _GROUPS.items():
        yield title, list(names)
    yield "memory and batching", [n for n in EngineConfig.model_fields if n not in grouped]
    yield "http", [n for n in HttpConfig.model_fields if n not in grouped]


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse_flags(argv: Sequence[str] | None = None) -> tuple[Action, dict[str, Any]]:
    """What is to be done, and the values given, as text (switches: as bool) by field.

    Raises `ConfigError` for what is no flag; `SystemExit` after --help and --version.
    """
    parser = make_parser()
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _not_a_flag(unknown)
    given = vars(known)
    action = Action(**{name: given.pop(name) for name in list(given) if name not in fields()})
    if action.json and not action.check:
        raise ConfigError("--json goes with --check only.")
    return action, given


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cast-serve",
        usage="cast-serve [flags]",
        description=_INTRO,
        epilog=_EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"castserve {_version()}")
    add("--config", metavar="FILE", help="a YAML file of settings; CASTSERVE_CONFIG names one too")
    add(
        "--print-config",
        action="store_true",
        help="print all settings as such a file, with where each comes from, and do not serve",
    )
    add(
        "--check",
        action="store_true",
        help="tell whether all this can be served here, and in how much memory, without loading "
        "weights; exit status 0 if so, else 2",
    )
    add("--json", action="store_true", help="what --check finds, as JSON")
    for title, names in groups():
        group = parser.add_argument_group(title)
        for name in names:
            group.add_argument(flag_name(name), **_options(name, fields()[name]))
    return parser


def _options(name: str, field: FieldInfo) -> dict[str, Any]:
    """What argparse must know of a field; pydantic checks the value."""
    text = field.description or ""
    is_switch = field.annotation is bool
    if field.default not in (None, ""):
        default = ("on" if field.default else "off") if is_switch else field.default
        text += f" (default: {default})"
    text = text.replace("%", "%%")
    if is_switch:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    if get_origin(field.annotation) is Literal:
        return {"metavar": "|".join(get_args(field.annotation)), "help": text}
    is_number = {int, float} & {field.annotation, *get_args(field.annotation)}
    return {"metavar": "N" if is_number else name.split("_")[-1].upper(), "help": text}


def nearest(name: str, known: Sequence[str]) -> str:
    """As in "; did you mean --port?", or nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "."


def _not_a_flag(unknown: Sequence[str]) -> ConfigError:
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    if not word.startswith("-"):
        return ConfigError(f"{word!r} belongs to no flag; a model is named with --model.")
    flag = word.partition("=")[0]
    known = [flag_name(name) for name in (*fields(), *Action.__slots__)]
    return ConfigError(f"There is no flag {flag}{nearest(flag, known)}")


def _version() -> str:
    try:
        return version("castserve")
    except PackageNotFoundError:
        return "(not installed)"
