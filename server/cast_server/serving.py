"""A server's life: listen, load, serve, drain, stop."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cast_server.api.keys import keys_of
from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.model_files import resolve_model
from cast_server.observing.logs import set_up_logging
from cast_server.observing.traces import check_endpoint


def serve(engine_config: EngineConfig, http_config: HttpConfig) -> int:
    """Serves until a signal. Returns the exit status: 0, or 1 if something has died.

    Raises `ConfigError` for what cannot be, and `KeyboardInterrupt` if stopped while loading.
    """
    name = http_config.served_model_name or resolve_model(engine_config.model).name
    check_endpoint(http_config.otlp_endpoint)
    keys = keys_of(http_config.api_keys_file, os.environ)
    if http_config.max_requests_per_key is not None and not keys.are_needed:
        raise ConfigError("--max-requests-per-key needs keys: name a file with --api-keys-file.")
    with bind(http_config) as sock:
        set_up_process(http_config)
        begun = time.monotonic()
        print(f"Loading {name} …", flush=True)
        from cast_server.api.edge import Edge
        from cast_server.api.lifecycle import Lifecycle
        from cast_server.http_side import HttpSide

        http = HttpSide(sock, http_config, Edge(keys, Lifecycle()))
        with http.running():
            # torch and transformers take seconds to import: clients are told so by then.
            from cast_server.api.app import create_app
            from cast_server.build import build_parts

            parts = build_parts(engine_config, http_config)
            app = create_app(parts.engine, http_config, parts.evaluations, http.edge)
            with _signals_to(http.stop):
                parts.start()
                try:
                    http.open(app, lambda: parts.engine.is_alive)
                    where = address(http_config.host, sock.getsockname()[1])
                    print(f"Ready on {where} ({name}, after {time.monotonic() - begun:.0f} s)")
                    print(_try_it(where, name, keys.are_needed), flush=True)
                    is_well = http.wait()
                finally:
                    parts.stop()
    print("Stopped." if is_well else "Stopped, as the engine or HTTP has died.", flush=True)
    return 0 if is_well else 1


def bind(config: HttpConfig) -> socket.socket:
    """Takes the port before anything slow. Raises `ConfigError` if that cannot be."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen()  # or a second server could bind the port as well
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _cannot_listen(config, error) from error
    return sock


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(config: HttpConfig, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"Port {config.port} is taken; choose another one with --port.")
    return ConfigError(f"Cannot listen on {config.host}:{config.port}: {error.strerror}.")


def _try_it(where: str, name: str, needs_key: bool) -> str:
    body = {"model": name, "messages": [{"role": "user", "content": "Name three primes."}]}
    key = "-H 'Authorization: Bearer YOUR_KEY' " if needs_key else ""
    return (
        f"Try it:\n  curl {where}/v1/chat/completions {key}"
        f"-H 'Content-Type: application/json' \\\n    -d {shlex.quote(json.dumps(body))}"
    )


@contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    """Two signals call `stop`; a third ends the process, whatever it hangs on."""
    names = (signal.SIGINT, signal.SIGTERM)
    left = 2

    def on_signal(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            for name in names:
                signal.signal(name, signal.SIG_DFL)
        stop()

    before = [signal.signal(name, on_signal) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def set_up_process(config: HttpConfig) -> None:
    """Signals, logs and warnings, as a command has them."""
    # Service managers stop with SIGTERM; while loading it should end as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    set_up_logging(config.log_format, config.log_level)
    # torch imports the module that our dependency pynvml replaces; users can do nothing about it.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
