from __future__ import annotations

import dataclasses
import json
import sys
import types

import pytest
import torch

from cast_profiler import device
from cast_profiler.cost import CostCurve, CostTable
from cast_profiler.fingerprint import Fingerprint
from cast_profiler.profile import MemoryFloor, Profile, StaleProfileError
from cast_profiler.surface import Measurement, Surface

FINGERPRINT = Fingerprint(
    device="Some CPU",
    threads=2,
    model="tiny",
    shape="0123456789abcdef",
    dtype="bfloat16",
    backend="sdpa",
    drafter="eagle",
    head="",
    versions="castserve 0.1.0",
)


def point(rows: int, seconds: float, sequences: int = 1, context: int = 256) -> Measurement:
    return Measurement(rows, sequences, sequences * context, seconds, 0.001, 9, 1)


def measured(per_key: float, per_sequence: float) -> Surface:
    """A curve with an inversion at 16 rows, and two slopes."""
    base = {1: 0.025, 8: 0.026, 16: 0.040, 24: 0.036, 64: 0.080}
    points = [point(rows, seconds) for rows, seconds in base.items()]
    points += [point(rows, base[rows] + 768 * per_key, context=1024) for rows in (1, 8, 64)]
    points += [
        point(rows, base[rows] + (n - 1) * (256 * per_key + per_sequence), sequences=n)
        for n, rows in ((8, 8), (16, 64))
    ]
    return Surface(tuple(points))


def profile(draft: Surface | None = None) -> Profile:
    memory = MemoryFloor(270_000_000, 30e9)
    return Profile(FINGERPRINT, measured(1e-6, 2e-4), draft, memory, {"date": "today", "rounds": 9})


def test_the_slopes_are_found_and_the_curve_is_kept() -> None:
    curve = measured(1e-6, 2e-4).curve()
    assert curve.rows == (1, 8, 16, 24, 64)
    assert curve.seconds_per_key == pytest.approx(1e-6)
    assert curve.seconds_per_sequence == pytest.approx(2e-4)
    assert curve(16, 256) > curve(24, 256)
    assert curve(12, 1256) == pytest.approx(0.033 + 0.001)
    assert curve(8, 256, sequences=5) == pytest.approx(0.026 + 4 * 2e-4)


def test_a_row_costs_more_behind_a_long_context_of_its_own() -> None:
    def seconds(rows: int, context: int) -> float:
        return 0.02 + 1e-3 * rows + 2e-6 * (context - 256) + 1e-7 * rows * (context - 256)

    points = [
        point(rows, seconds(rows, context), context=context)
        for rows in (1, 8, 64)
        for context in (256, 1024)
    ]
    curve = Surface(tuple(points)).curve()
    assert curve.seconds_per_product == pytest.approx(1e-7)
    assert curve(64, 2048) == pytest.approx(seconds(64, 2048))
    assert curve(64, 2048, sequences=8) == pytest.approx(seconds(64, 256) + 1792 * 2e-6)


def test_a_context_that_costs_less_costs_nothing() -> None:
    surface = Surface((point(1, 0.02), point(8, 0.03), point(8, 0.025, context=512)))
    assert surface.curve().seconds_per_key == 0
    assert surface.curve()(8, 256) == 0.03


def test_fit_error_is_that_of_points_left_out() -> None:
    surface = Surface((point(1, 0.02), point(8, 0.05), point(15, 0.04)))
    error = surface.fit_error()
    assert error is not None
    assert error.median == error.worst == pytest.approx(0.4)  # 0.03 predicted for 0.05
    assert (error.worst_rows, error.worst_keys) == (8, 256)
    assert Surface((point(1, 0.02), point(8, 0.05))).fit_error() is None


def test_a_surface_needs_one_sequence() -> None:
    with pytest.raises(ValueError, match="one sequence"):
        Surface((point(4, 0.02, sequences=4),))


def test_a_padded_pass_costs_what_its_bucket_costs() -> None:
    curve = CostCurve((1, 8, 16), (0.01, 0.02, 0.04), buckets=(8, 16))
    assert curve(1, 0) == curve(8, 0) == 0.02
    assert curve(9, 0) == curve(16, 0) == 0.04
    assert curve(24, 0) == pytest.approx(0.06)
    with pytest.raises(ValueError, match="must rise"):
        CostCurve((1, 8), (0.01, 0.02), buckets=(8, 8))


def test_beyond_the_measured_rows_the_last_slope_goes_on() -> None:
    assert CostCurve((1, 8, 16), (0.01, 0.02, 0.04))(32, 0) == pytest.approx(0.08)
    assert CostCurve((1, 8, 16), (0.01, 0.04, 0.02))(32, 0) == 0.02
    assert CostCurve((4, 8), (0.01, 0.02))(1, 0) == 0.01


def test_levels_cost_nothing_without_a_draft_curve() -> None:
    table = CostTable(CostCurve((1,), (0.02,)))
    assert table.draft_seconds(8, 256) == 0
    assert table.verify_seconds(1, 0, 4) == 0.02


@pytest.mark.parametrize("draft", [None, Surface((point(1, 0.002), point(8, 0.003)), (4, 8))])
def test_what_is_saved_is_loaded(tmp_path, draft) -> None:
    file = tmp_path / "new" / "profile.json"
    before = profile(draft)
    before.save(file)
    assert Profile.load(file) == before
    assert [path.name for path in file.parent.iterdir()] == ["profile.json"]
    document = json.loads(file.read_text())
    assert document["verify"]["fit"]["leave_one_out_error"]["worst"] > 0
    assert document["memory"]["floor_seconds"] == pytest.approx(0.009)
    lines = [line for line in file.read_text().splitlines() if '"rows": 24' in line]
    assert len(lines) == 1
    assert '"seconds": 0.036' in lines[0]
    verify = before.cost().verify_seconds(24, 256)
    assert Profile.load(file).cost().verify_seconds(24, 256) == verify == 0.036


@pytest.mark.parametrize("field", dataclasses.fields(Fingerprint), ids=lambda field: field.name)
def test_a_profile_of_something_else_is_refused_in_one_sentence(field) -> None:
    one = profile()
    one.check(FINGERPRINT)
    other = dataclasses.replace(FINGERPRINT, **{field.name: 7 if field.name == "threads" else "x"})
    assert other.digest() != FINGERPRINT.digest()
    with pytest.raises(StaleProfileError) as refusal:
        one.check(other)
    text = str(refusal.value)
    for part in (field.name, repr(getattr(FINGERPRINT, field.name)), "cast-profile"):
        assert part in text
    assert repr(getattr(other, field.name)) in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: "{", "is no JSON"),
        (lambda d: "[]", "is no castserve profile"),
        (lambda d: json.dumps(d | {"version": 99}), "of version 1"),
        (lambda d: json.dumps(d | {"fingerprint": {}}), "is damaged"),
        (lambda d: json.dumps(d | {"verify": {"points": [], "buckets": []}}), "is damaged"),
        (lambda d: json.dumps({k: v for k, v in d.items() if k != "memory"}), "is damaged"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, change, sentence) -> None:
    file = tmp_path / "profile.json"
    profile().save(file)
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(ValueError, match=sentence):
        Profile.load(file)


def test_a_missing_file_is_a_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Profile.load(tmp_path / "none.json")


def test_the_bandwidth_is_that_of_memory() -> None:
    assert 1e8 < device.read_bandwidth(1, torch.device("cpu")) < 1e13
    assert 1e8 < device.copy_bandwidth(1, torch.device("cpu")) < 1e13
    assert device.device_name(torch.device("cpu"))


def test_no_telemetry_is_no_failure(monkeypatch) -> None:
    assert device.telemetry(torch.device("cpu")) is None
    broken = types.SimpleNamespace()  # no NVML behind it, nor torch's CUDA
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert device.telemetry(torch.device("cuda")) is None


def test_telemetry_leaves_out_what_a_device_does_not_tell(monkeypatch) -> None:
    class NVMLError(Exception):
        pass

    def refuse(_):
        raise NVMLError

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=0,
        NVML_CLOCK_MEM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda _, kind: (1500, 2600)[kind],
        nvmlDeviceGetPowerUsage=lambda _: 300_000,
        nvmlDeviceGetEnforcedPowerLimit=refuse,
        nvmlDeviceGetTemperature=lambda *_: 55,
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(used=1, total=2),
        nvmlSystemGetDriverVersion=lambda: "1.2",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = types.SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    told = device.telemetry(torch.device("cuda"))
    assert told is not None
    assert told["sm_clock"] == 1500
    assert told["power"] == 300
    assert "power_cap" not in told
