"""The `cast-serve` command: flags from the configuration's fields, then model, engine and HTTP."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.model_files import resolve_model
from cast_server.observing.logs import set_up_logging
from cast_server.observing.traces import check_endpoint

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
        return _serve(*parse(argv))
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
    parser.add_argument("--version", action="version", version=f"castserve {_version()}")
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


def _version() -> str:
    try:
        return version("castserve")
    except PackageNotFoundError:
        return "(not installed)"


def _validated(config: type[_Config], given: dict[str, Any]) -> _Config:
    try:
        return config(**{name: given[name] for name in config.model_fields if name in given})
    except ValidationError as error:
        faults = (
            f"{_flag(str(fault['loc'][0]))} {fault['input']}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError("; ".join(faults)) from None


def _serve(engine_config: EngineConfig, http_config: HttpConfig) -> int:
    check_endpoint(http_config.otlp_endpoint)
    name = http_config.served_model_name or resolve_model(engine_config.model).name
    with _bind(http_config) as sock:
        _set_up_process(http_config)
        begun = time.monotonic()
        print(f"Loading {name} …", flush=True)
        # torch and transformers take seconds to import, and --help needs neither.
        from cast_server.build import build_parts

        parts = build_parts(engine_config, http_config)
        parts.start()
        try:
            address = _address(http_config.host, sock.getsockname()[1])
            ready = f"Ready on {address} ({name}, after {time.monotonic() - begun:.0f} s)"
            ready = f"{ready}\n{_try_it(address, name)}"
            _run_http(parts, http_config, sock, ready)
        except KeyboardInterrupt:
            pass  # uvicorn has shut down in order and passes on what stopped it
        finally:
            parts.stop()
    print("Stopped.", flush=True)
    return 0


def _run_http(parts: Any, config: HttpConfig, sock: socket.socket, ready: str) -> None:
    import uvicorn

    from cast_server.api.app import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(ready, flush=True)

    app = create_app(parts.engine, config, parts.evaluations)
    options = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=30)
    try:
        Server(options).run(sockets=[sock])
    except OSError as error:  # two servers may bind one port while neither listens yet
        raise _cannot_listen(config, error) from error


def _bind(config: HttpConfig) -> socket.socket:
    """Takes the port before the slow part. Nobody can connect until uvicorn listens on it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _cannot_listen(config, error) from error
    return sock


def _cannot_listen(config: HttpConfig, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"Port {config.port} is taken; choose another one with --port.")
    return ConfigError(f"Cannot listen on {config.host}:{config.port}: {error.strerror}.")


def _address(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _try_it(address: str, name: str) -> str:
    body = {"model": name, "messages": [{"role": "user", "content": "Name three primes."}]}
    return (
        f"Try it:\n  curl {address}/v1/chat/completions "
        f"-H 'Content-Type: application/json' \\\n    -d {shlex.quote(json.dumps(body))}"
    )


def _set_up_process(config: HttpConfig) -> None:
    # Service managers stop with SIGTERM; it should end as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    set_up_logging(config.log_format, config.log_level)
    # torch imports the module that our dependency pynvml replaces; users can do nothing about it.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
