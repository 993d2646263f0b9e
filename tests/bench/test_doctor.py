"""The doctor: all of it where it runs, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cast_bench import cli as bench
from cast_bench import lossless
from cast_bench.doctor import checks, cli, commands, tiny_engine
from cast_bench.doctor.commands import Command, run_command
from cast_bench.doctor.findings import Findings
from cast_bench.kernels import cli as kernels
from cast_kernels.backend import TORCH, triton_backend
from cast_kernels.frontier import kernel as frontier_kernel
from cast_kernels.gumbel import kernel as gumbel_kernel
from cast_server.profiling import cli as profile

CPU = torch.device("cpu")


@pytest.fixture
def few_checks(monkeypatch) -> None:
    """Two quick operations, and no engine."""

    def few(model, step):
        return [op for op in ALL(model, step) if op.name in ("frontier", "gumbel_argmax")]

    monkeypatch.setattr(checks, "ops", few)
    monkeypatch.setattr(cli, "check_engine", lambda found, device, backend: None)


ALL = checks.ops


def test_the_whole_command(device, tmp_path) -> None:
    """By itself, as nobody has told it to interpret; on a CUDA device with the first times."""
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "cast_bench.cli", "doctor", "--device", device.type]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, "--json", str(file)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["wrong"] == {}
    assert report["environment"]["torch"] == torch.__version__
    engines = [said for name, said in report["right"].items() if name.startswith("engine")]
    assert len(engines) == 3
    assert all(said.startswith("4 answers equal") for said in engines)
    times = [name for name in report if name.startswith("times")]
    if device.type == "cuda":
        assert times
    else:
        assert "nothing was recorded in CUDA graphs, and nothing was timed" in done.stdout
        assert not times


@pytest.mark.usefixtures("few_checks")
def test_a_wrong_kernel_and_one_that_fails_are_named(tmp_path, monkeypatch, capsys) -> None:
    right = gumbel_kernel.gumbel_argmax

    def off_by_one(*args):
        token_R, log_prob_R = right(*args)
        return token_R + 1, log_prob_R

    def failing(*args):
        raise RuntimeError("out of shared memory")

    monkeypatch.setattr(gumbel_kernel, "gumbel_argmax", off_by_one)
    monkeypatch.setattr(frontier_kernel, "frontier", failing)
    file = tmp_path / "report.json"
    assert bench.main(["doctor", "--device", "cpu", "--json", str(file)]) == 1
    said = capsys.readouterr().out
    assert "WRONG gumbel_argmax, odd: MismatchError: triton: MismatchError: tokens: " in said
    assert "triton: RuntimeError: out of shared memory" in said
    assert f"WRONG on {json.loads(file.read_text())['environment']['device']}: " in said
    assert "Please report it" in said
    assert list(json.loads(file.read_text())["wrong"]) == ["gumbel_argmax, odd", "frontier, odd"]


def test_an_engine_that_says_something_else_is_wrong(monkeypatch) -> None:
    expected = dict(tiny_engine.plain_answers())
    expected["1"] = [*expected["1"][:-1], (expected["1"][-1] + 1) % 256]
    monkeypatch.setattr(tiny_engine, "plain_answers", lambda: expected)
    found = Findings()
    checks.check_engine(found, CPU, TORCH)
    assert found.wrong == {"engine on torch": "MismatchError: 1 of 4 answers differ"}


def test_steps_that_cannot_be_recorded_are_wrong(monkeypatch) -> None:
    """An engine goes on without graphs then; a doctor must not."""
    unrecorded = SimpleNamespace(target=SimpleNamespace(buckets=()))
    monkeypatch.setattr(tiny_engine, "make_engine", lambda **settings: unrecorded)
    monkeypatch.setattr(tiny_engine, "plain_answers", dict)
    monkeypatch.setattr(tiny_engine, "run_misled", lambda core, expected: ({}, 1))
    found = Findings()
    checks.check_engine(found, CPU, triton_backend())
    assert list(found.right) == ["engine on torch", "engine on kernels"]
    assert list(found.wrong.values()) == ["MismatchError: steps cannot be recorded"]


@pytest.mark.usefixtures("few_checks")
def test_without_triton_it_says_so(tmp_path, monkeypatch, capsys) -> None:
    def missing(device, wanted):
        raise ValueError("Triton is not installed: pip install triton.")

    monkeypatch.setattr(cli, "choose_backend", missing)
    assert cli.main(["--device", "cpu", "--json", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "Triton is not installed" in said
    assert "no kernel ran, nothing was recorded" in said
    found = Findings()
    cli._backend(found, torch.device("cuda"))
    assert found.wrong == {"kernels": "Triton is not installed: pip install triton."}


def test_a_device_that_cannot_be_used_is_a_sentence(tmp_path, monkeypatch, capsys) -> None:
    asked = ["doctor", "--device", "cuda", "--json", str(tmp_path / "a")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(asked) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert bench.main(asked) == 2
    assert "TRITON_INTERPRET is set: unset it" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_a_command_writes_is_in_the_report() -> None:
    """A command that runs anywhere; a doctor takes no times of a CPU."""
    shape = ("--model", "smollm2-135m", "--batch", "1", "--rows", "3", "--context", "32")
    flags = ("--device", "cpu", "--ops", "frontier", *shape, "--seconds", "0.01")
    found = Findings()
    assert run_command(found, "kernels", Command(kernels.main, flags)) == "see above"
    assert [one["op"] for one in found.entries["kernels"]["results"]] == ["frontier"]


def test_a_command_that_fails_is_wrong(capsys) -> None:
    def failing(flags):
        return 1

    found = Findings()
    found.check("times", lambda: run_command(found, "times", Command(failing, ())))
    assert found.wrong == {"times": "MismatchError: exit status 1, see above"}
    assert "WRONG times" in capsys.readouterr().out


def test_commands_understand_their_flags(monkeypatch) -> None:
    """Where none of them can run."""
    for memory, model in ((2**33, "smollm2-135m"), (2**36, "llama-3.1-8b")):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _, m=memory: SimpleNamespace(total_memory=m)
        )
        args = kernels._parse([*commands.kernel_times(torch.device("cuda")).flags, "--json", "a"])
        assert (args.model, args.device) == (model, "cuda")
    assert lossless._parse([*commands.LOSSLESS.flags, "--json", "a"]).dtype == "float32"
    steps = commands.step_times("--cuda-graphs", "0")
    args = profile._parser().parse_args([*steps.flags, steps.file_flag, "a"])
    assert profile._config(args).cuda_graphs == 0
