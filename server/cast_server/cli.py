"""The `cast-serve` command: flags from the configuration's fields, then model, engine and HTTP."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.new_key import NewKeyAction
from cast_server.release import release
from cast_server.serving import serve

_Config = TypeVar("_Config", bound=BaseModel)

_INTRO = """\
Serves a language model over OpenAI's HTTP API, with speculative decoding that never changes a
token. Without any flag it serves the built-in model on http://127.0.0.1:8000."""

_EXAMPLES = """\
examples:
  cast-serve                                        the built-in model, port 8000
  cast-serve --model ./my-model --port 9000         a model in Hugging Face format
  cast-serve --model my-model.gguf --policy off     a GGUF file, without speculation
"""

_MODEL_FIELDS = ("model", "dtype", "device", "threads")
_OBSERVING_FIELDS = ("log_format", "log_level", "log_texts", "otlp_endpoint")
_SPECULATION_FIELDS = (
    "drafter",
    "head",
    "draft_sources",
    "learn_from_traffic",
    "policy",
    "profile",
    "max_draft_rows",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until it is told to stop. Returns the exit status: 2 for a wrong setting."""
    try:
        return serve(*parse(argv))
    except ConfigError as error:
        print(f"cast-serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cast-serve: interrupted", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> tuple[EngineConfig, HttpConfig]:
    """Reads the command line. Raises `ConfigError` that names every flag with a wrong value."""
    given = vars(_parser().parse_args(argv))
    return _validated(EngineConfig, given), _validated(HttpConfig, given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cast-serve",
        usage="cast-serve [flags]",
        description=_INTRO,
        epilog=_EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"castserve {release()}")
    parser.add_argument(
        "--new-api-key",
        action=NewKeyAction,
        metavar="NAME",
        help="make a key for NAME, print it and its line for --api-keys-file, and exit",
    )
    engine, http = EngineConfig.model_fields, HttpConfig.model_fields
    grouped = (*_MODEL_FIELDS, *_SPECULATION_FIELDS)
    _add_group(parser, "model", engine, _MODEL_FIELDS)
    _add_group(parser, "speculation", engine, _SPECULATION_FIELDS)
    _add_group(parser, "memory and batching", engine, (n for n in engine if n not in grouped))
    _add_group(parser, "http", http, (n for n in http if n not in _OBSERVING_FIELDS))
    _add_group(parser, "logs and traces", http, _OBSERVING_FIELDS)
    return parser


def _add_group(
    parser: argparse.ArgumentParser, title: str, fields: dict[str, FieldInfo], names: Iterable[str]
) -> None:
    group = parser.add_argument_group(title)
    for name in names:
        group.add_argument(_flag(name), default=argparse.SUPPRESS, **_options(name, fields[name]))


def _options(name: str, field: FieldInfo) -> dict[str, Any]:
    """What argparse must know of a field; pydantic checks the value."""
    text = field.description or ""
    is_switch = field.annotation is bool
    if field.default is not None:
        default = ("on" if field.default else "off") if is_switch else field.default
        text += f" (default: {default})"
    text = text.replace("%", "%%")
    if is_switch:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    if get_origin(field.annotation) is Literal:
        return {"choices": get_args(field.annotation), "help": text}
    is_number = int in (field.annotation, *get_args(field.annotation))
    return {"metavar": "N" if is_number else name.split("_")[-1].upper(), "help": text}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _validated(config: type[_Config], given: dict[str, Any]) -> _Config:
    try:
        return config(**{name: given[name] for name in config.model_fields if name in given})
    except ValidationError as error:
        faults = (
            f"{_flag(str(fault['loc'][0]))} {fault['input']}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError("; ".join(faults)) from None
