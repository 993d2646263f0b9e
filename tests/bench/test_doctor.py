"""The doctor on a machine without a GPU, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from cast_bench import doctor, tiny_engine
from cast_bench.parity import check_all
from cast_kernels.backend import TORCH, triton_backend

CPU = torch.device("cpu")


@pytest.fixture
def only_kernels(monkeypatch) -> None:
    """Leaves the engine out, which takes the interpreter long; it has a test of its own."""
    monkeypatch.setattr(doctor, "_check_engine", lambda backend, device, report: [])


def test_the_references_are_right_about_themselves() -> None:
    findings = list(check_all(TORCH, CPU))
    assert all(one.is_right for one in findings)
    assert len({one.name.split()[0] for one in findings}) == 8  # every operation of a backend


def test_a_cpu_is_told_what_it_cannot_know(tmp_path) -> None:
    """The command, by itself: kernels and tiny engines in the interpreter, which nobody has set."""
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "cast_bench.doctor", "--device", "cpu", "--json", str(file)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was recorded in CUDA graphs, and nothing was timed" in done.stdout
    report = json.loads(file.read_text())
    assert "timings" not in report
    assert (report["wrong"], report["backend"]) == ([], "triton")
    assert report["environment"]["torch"] == torch.__version__
    assert all(one["is_right"] for one in report["parity"])
    assert [one["equal"] for one in report["engine"]] == [4, 4]
    assert all(one["accepted"] > 2 for one in report["engine"])


@pytest.mark.usefixtures("only_kernels")
def test_a_wrong_kernel_and_one_that_fails_are_named(tmp_path, monkeypatch, capsys) -> None:
    def off_by_one(*args):
        token_R, log_prob_R = TORCH.gumbel_choice(*args)
        return token_R + 1, log_prob_R

    def failing(*args):
        raise RuntimeError("out of shared memory")

    broken = replace(TORCH, gumbel_choice=off_by_one, frontier=failing)
    monkeypatch.setattr(doctor, "choose_backend", lambda device, wanted: broken)
    file = tmp_path / "report.json"
    assert doctor.main(["--json", str(file), "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "WRONG gumbel tokens" in said
    assert "WRONG frontier: RuntimeError: out of shared memory" in said
    assert json.loads(file.read_text())["wrong"] == ["gumbel tokens", "frontier"]
    assert "Please report it" in said


def test_an_engine_that_says_something_else_is_seen() -> None:
    expected = dict(tiny_engine.plain_answers())
    right = tiny_engine.compare("", expected, device="cpu", kernels="torch")
    assert right.is_right
    expected["1"] = [*expected["1"][:-1], (expected["1"][-1] + 1) % 256]
    found = tiny_engine.compare("", expected, device="cpu", kernels="torch")
    assert (found.equal, found.answers, found.is_right) == (3, 4, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_a_sentence(tmp_path, capsys) -> None:
    assert doctor.main(["--device", "cuda", "--json", str(tmp_path / "a")]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("only_kernels")
def test_without_triton_it_says_so(tmp_path, monkeypatch, capsys) -> None:
    def missing(device, wanted):
        raise ValueError("Triton is not installed: pip install triton.")

    monkeypatch.setattr(doctor, "choose_backend", missing)
    assert doctor.main(["--device", "cpu", "--json", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "Triton is not installed" in said
    assert "no kernel ran, nothing was recorded" in said


def test_a_backend_checks_all_its_operations() -> None:
    names = {one.name.split()[0] for one in check_all(TORCH, CPU)}
    operations = set(triton_backend().__slots__) - {"name", "is_static", "max_moves", "plan"}
    assert {name.replace("gumbel", "gumbel_choice") for name in names} == operations
