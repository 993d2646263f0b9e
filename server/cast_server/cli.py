"""The `cast-serve` command: settings, then model, engine and HTTP."""

from __future__ import annotations

import errno
import json
import logging
import shlex
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.model_files import resolve_model
from cast_server.settings import Settings, read_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until it is told to stop. Returns the exit status: 2 for a wrong setting."""
    try:
        settings = read_settings(argv)
        if settings.action.print_config:
            print(settings.to_yaml(), end="")
            return 0
        if settings.action.check:
            return _check(settings)
        return _serve(settings.engine, settings.http)
    except ConfigError as error:
        print(f"cast-serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cast-serve: interrupted", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> tuple[EngineConfig, HttpConfig]:
    """Reads flags, environment and file. Raises `ConfigError` that names every wrong value."""
    settings = read_settings(argv)
    return settings.engine, settings.http


def _check(settings: Settings) -> int:
    _set_up_process()
    from cast_server.checking import Check

    report = Check(settings).run(lambda: _bind(settings.http).close())
    print(report.to_json() if settings.action.json else report.to_text())
    return 0 if report.is_fine else 2


def _serve(engine_config: EngineConfig, http_config: HttpConfig) -> int:
    name = http_config.served_model_name or resolve_model(engine_config.model).name
    with _bind(http_config) as sock:
        _set_up_process()
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
    options = uvicorn.Config(app, log_level="info", timeout_graceful_shutdown=30)
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


def _set_up_process() -> None:
    # Service managers stop with SIGTERM; it should end as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cast_server").setLevel(logging.INFO)
    # torch imports the module that our dependency pynvml replaces; users can do nothing about it.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
