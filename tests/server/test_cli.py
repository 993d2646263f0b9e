"""The command line: what it accepts, what it says, and how a server starts and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cast_server import cli, serving
from cast_server.config import EngineConfig, HttpConfig

SERVER_ROOT = str(Path(cli.__file__).parents[1])

# Stands in for the engine and the app, so that the command itself is what is tested.
STUB = """
import logging, signal, sys, types
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from cast_server import cli
from cast_server.errors import ConfigError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

class Parts:
    engine, evaluations = types.SimpleNamespace(is_alive=True), None
    def start(self): print("engine started", flush=True)
    def stop(self): print("engine stopped", flush=True)

def build_parts(config, http):
    {build}
    return Parts()

def hello(_):
    logging.getLogger("cast_server").info("somebody has said hello")
    return PlainTextResponse("hello")

app = Starlette(routes=[Route("/", hello)])

sys.modules["cast_server.build"] = types.SimpleNamespace(build_parts=build_parts)
sys.modules["cast_server.api.app"] = types.SimpleNamespace(create_app=lambda *_: app)
sys.exit(cli.main(sys.argv[1:]))
"""


def start(*argv: str, build: str = "pass") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STUB.format(build=build), *argv],
        env=os.environ | {"PYTHONPATH": SERVER_ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_flags_give_the_defaults() -> None:
    assert cli.parse([]) == (EngineConfig(), HttpConfig())


def test_values_reach_the_configuration() -> None:
    engine, http = cli.parse(
        ["--max-model-len", "64", "--no-prefix-caching", "--dtype", "float32", "--port", "0"]
    )
    assert (engine.max_model_len, engine.prefix_caching, engine.dtype) == (64, False, "float32")
    assert http.port == 0


def test_help_teaches_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, field in (EngineConfig.model_fields | HttpConfig.model_fields).items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None
        assert field.description.split()[0] in text
    assert [text.index(f"\n{g}:") for g in ("model", "speculation", "memory and batching", "http")]
    assert text.count("\n    cast-serve") == 9
    assert "port to listen on; 0 picks a free one (default: 8000)" in " ".join(text.split())


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from cast_server import cli, flags; flags.make_parser().format_help(); " + (
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": SERVER_ROOT}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("castserve ")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--port", "99999"], r"--port 99999: .*65535"),
        (["--max-num-seqs", "many"], r"--max-num-seqs many: .*integer"),
        (["--model", "no/such-model"], r"no model 'no/such-model'"),
    ],
)
def test_wrong_values_are_one_sentence(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert re.search(expected, message)
    assert message.count("\n") == 1


def test_every_wrong_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--block-size", "0", "--threads", "x"]) == 2
    message = capsys.readouterr().err
    assert "--block-size 0" in message
    assert "--threads x" in message


def test_taken_port_is_told_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["--port", str(port)]) == 2
    streams = capsys.readouterr()
    assert streams.err == f"cast-serve: Port {port} is taken; choose another one with --port.\n"
    assert "Loading" not in streams.out


def test_impossible_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--host", "192.0.2.1"]) == 2
    assert "Cannot listen on 192.0.2.1:8000" in capsys.readouterr().err


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_server_starts_says_so_and_stops_cleanly(stop_signal: signal.Signals) -> None:
    with start("--port", "0", "--served-model-name", "it's mine") as server:
        assert server.stdout is not None
        said: list[str] = []
        while not said or "curl" not in said[-1]:
            said.append(server.stdout.readline())
            assert said[-1], server.communicate()
        ready = re.search(r"Ready on (http://127\.0\.0\.1:\d+) \(it's mine", "".join(said))
        assert ready
        with urllib.request.urlopen(ready[1]) as answer:
            assert answer.read() == b"hello"
        server.send_signal(stop_signal)
        rest, errors = server.communicate(timeout=30)
    assert server.returncode == 0, errors
    assert said[0] == "Loading it's mine …\n"
    assert rest.endswith("engine stopped\nStopped.\n")
    assert "Traceback" not in errors


def test_a_log_of_json_has_nothing_else_in_it() -> None:
    with start("--port", "0", "--log-format", "json") as server:
        assert server.stdout is not None
        while not (ready := re.search(r"Ready on (\S+)", server.stdout.readline())):
            assert server.poll() is None
        with urllib.request.urlopen(ready[1]):
            pass
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=30)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert lines
    assert {line["logger"] for line in lines} == {"cast_server"}
    assert all({"time", "level", "message"} <= set(line) for line in lines)


def test_a_quiet_log_is_empty() -> None:
    with start("--port", "0", "--log-level", "error") as server:
        assert server.stdout is not None
        while "Ready on" not in server.stdout.readline():
            assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=30)[1] == ""


def test_what_the_engine_refuses_is_one_sentence() -> None:
    with start("--port", "0", build="raise ConfigError('No such drafter.')") as server:
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (2, "cast-serve: No such drafter.\n")


def test_interrupt_while_loading() -> None:
    with start("--port", "0", build="import time; time.sleep(30)") as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (130, "cast-serve: interrupted\n")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("box.local", "http://box.local:80"),
    ],
)
def test_address_can_be_opened(host: str, address: str) -> None:
    assert serving.address(host, 80) == address
