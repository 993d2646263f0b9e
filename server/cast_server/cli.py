"""The `cast-serve` command: reads its settings, then serves, checks or prints them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cast_server.config import EngineConfig, HttpConfig
from cast_server.errors import ConfigError
from cast_server.serving import bind, serve, set_up_process
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
        return serve(settings.engine, settings.http)
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
    set_up_process(settings.http)
    from cast_server.checking import Check

    report = Check(settings).run(lambda: bind(settings.http).close())
    print(report.to_json() if settings.action.json else report.to_text())
    return 0 if report.is_fine else 2
