"""Operations against their floors: what is wrong is refused, and the interpreter is never timed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cast_bench import cli
from cast_bench.kernels import ops as ops_module
from cast_bench.kernels.measuring import Findings, measure, refuse_interpreter
from cast_bench.kernels.ops import OPS, Op, ops
from cast_bench.kernels.report import markdown, quartiles
from cast_bench.kernels.shapes import ModelShape, Step
from cast_bench.kernels.timing import Roof, measure_roof
from cast_kernels.parity import MismatchError
from cast_server.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = ModelShape(2, 32, 4, 2, 16, 48, 300, 200)
STEP = Step(batch=2, rows=5, context=40)
ROOF = Roof(1e10, None, 1e10, 1e10, "a test")
NAMES = [op.name for op in ops(SMALL, STEP)]
OWN = ("sdpa", "reference", "packed", "wide")
TINY = ["--batch", "1", "--rows", "3", "--context", "32", "--seconds", "0.01", "--threads", "2"]


def small(name: str) -> Op:
    return next(op for op in ops(SMALL, STEP) if op.name == name)


def broken(function):
    """Does the work, and spoils the last result; writes nothing if there is none."""

    def spoilt(*arguments, **options):
        copies = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
        out = function(*copies, **options)
        if isinstance(out, tuple):
            return *out[:-1], out[-1] + 1
        return None if out is None else out + 1

    return spoilt


@pytest.mark.parametrize("name", NAMES)
def test_every_op_is_right_and_a_broken_one_is_not(name) -> None:
    case = small(name).make(CPU)
    own = [backend for backend in case.backends if backend in OWN]
    assert own
    with torch.inference_mode():
        for backend in own:
            case.check(case.function(backend))
            with pytest.raises(MismatchError):
                case.check(broken(case.function(backend)))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("linear")])
def test_every_kernel_of_the_table_is_found_and_right(name, device) -> None:
    """By the interpreter too, which may be asked for results, though not for times."""
    case = small(name).make(device)
    case.check(case.function("triton"))


def test_torch_attends_alike() -> None:
    case = small("tree_attention").make(CPU)
    case.check(case.baselines["torch-sdpa"])


@pytest.mark.slow
def test_flex_attention_attends_alike() -> None:
    case = small("tree_attention").make(CPU)
    case.check(case.baselines["torch-flex"])


def test_work_is_that_of_the_arguments() -> None:
    """Of those ops that look at all of their arguments."""
    for name in ("tree_accept", "gumbel_argmax", "log_softmax_topk", "frontier", "norm_linear"):
        op = small(name)
        arguments = op.make(CPU).arguments
        tensors = [one for one in arguments if isinstance(one, torch.Tensor)]
        assert op.work.bytes_read == sum(one.nbytes for one in tensors), name


def test_a_run_reports_every_time_with_its_origin(capsys, tmp_path) -> None:
    path, table = tmp_path / "kernels.json", tmp_path / "kernels.md"
    flags = ["--backends", *OWN, "torch-sdpa", "--json", str(path), "--markdown", str(table)]
    assert cli.main(["kernels", *TINY, *flags]) == 0
    written = json.loads(path.read_text())
    assert written["provenance"]["arguments"]["model"] == "smollm2-135m"
    assert written["provenance"]["module"] == "cast_bench.kernels.cli"
    assert [one["op"] for one in written["results"] if not one["is_baseline"]] == NAMES
    assert (written["refused"], written["skipped"]) == ({}, {})
    for one in written["results"]:
        assert len(one["seconds"]) >= 5
        moved = one["work"]["bytes_read"] + one["work"]["bytes_written"]
        floor = moved / written["roof"]["bytes_per_second"]
        assert one["floor_seconds"] == pytest.approx(floor)
    told = table.read_text()
    assert told in capsys.readouterr().out
    assert all(f"| {name} |" in told for name in NAMES)
    assert "(torch-sdpa)" in told


def test_a_wrong_kernel_is_named_and_not_reported(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(ops_module, "frontier", broken(ops_module.frontier))
    path = tmp_path / "kernels.json"
    flags = ["--ops", "tree_accept", "frontier", "--json", str(path)]
    assert cli.main(["kernels", *TINY, *flags]) == 1
    told = capsys.readouterr()
    assert "cast-bench kernels: frontier is not what it has to be (reference, counts" in told.err
    assert "| frontier |" not in told.out
    written = json.loads(path.read_text())
    assert [one["op"] for one in written["results"]] == ["tree_accept"]
    assert list(written["refused"]) == ["frontier"]


def test_an_op_is_refused_before_anything_of_it_is_timed(monkeypatch) -> None:
    """Also if only the second of its backends is wrong."""
    calls = []
    case = small("frontier").make(CPU)
    right = case.backends["reference"]

    def counted(*arguments):
        calls.append(arguments)
        return right(*arguments)

    case = replace(case, backends={"reference": counted, "packed": broken(right)})
    found = measure([replace(small("frontier"), make=lambda _: case)], CPU, ROOF, 0.01)
    assert found.results == []
    assert found.refused["frontier"].startswith("packed, counts: ")
    assert len(calls) == 1


def test_what_torch_cannot_do_here_is_skipped_and_told() -> None:
    def fails(*_):
        raise RuntimeError("no compiler\nlong trace")

    case = replace(small("frontier").make(CPU), baselines={"torch-flex": fails})
    found = measure([replace(small("frontier"), make=lambda _: case)], CPU, ROOF, 0.01)
    assert [one.backend for one in found.results] == ["reference"]
    assert found.skipped == {"frontier (torch-flex)": "RuntimeError: no compiler"}
    assert "frontier (torch-flex) cannot be used here" in markdown(found, ROOF)


def test_the_interpreter_is_not_timed(monkeypatch, capsys) -> None:
    assert cli.main(["kernels", *TINY, "--backends", "triton"]) == 2
    assert "its interpreter, whose times say nothing" in capsys.readouterr().err
    found = measure([small("tree_accept")], CPU, ROOF, 0.01)
    assert [one.backend for one in found.results] == ["reference"]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for wanted in (None, ["triton"]):
        with pytest.raises(ConfigError, match="TRITON_INTERPRET is set"):
            refuse_interpreter(CUDA, wanted)
    refuse_interpreter(CUDA, ["reference"])
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    refuse_interpreter(CUDA, None)


def test_an_unknown_op_is_named_with_those_there_are(capsys) -> None:
    assert cli.main(["kernels", "--ops", "fly"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "cast-bench kernels: --ops fly: there is no such op; choose tree_attention"
    )


def test_memory_here_is_measured() -> None:
    roof = measure_roof(CPU, torch.bfloat16)
    assert 1e8 < roof.copied < 1e13
    assert roof.bytes_per_second == max(roof.copied, roof.read)
    assert roof.operations_per_second is None


def test_a_machine_whose_memory_changes_meanwhile_is_told_of() -> None:
    for after, is_disturbed in ((1.1e10, False), (1.3e10, True), (0.5e10, True)):
        told = markdown(Findings(), replace(ROOF, copied_after=after))
        assert ("The machine was disturbed" in told) == is_disturbed


def test_quartiles_of_one_and_of_many() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(OPS)


def test_on_a_device(device, tmp_path) -> None:
    """All there is on a CUDA device; on a CPU one op of those that serve there."""
    path, table = tmp_path / "kernels.json", tmp_path / "kernels.md"
    backend, count, flags = {
        "cpu": ("reference", 1, ["--ops", "kv_write", "--model", "smollm2-135m", *TINY]),
        "cuda": ("triton", 8, ["--seconds", "0.05"]),
    }[device.type]
    flags += ["--device", device.type, "--json", str(path), "--markdown", str(table)]
    assert cli.main(["kernels", *flags]) == 0
    results = json.loads(path.read_text())["results"]
    assert len({one["op"] for one in results if one["backend"] == backend}) == count
    assert table.read_text().count(f"| {backend} |") == count
