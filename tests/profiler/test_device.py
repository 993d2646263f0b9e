"""What NVML is asked for, where it is not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cast_profiler import device as device_module
from cast_profiler.device import energy, telemetry


def test_without_nvml_there_is_a_reason_and_no_failure() -> None:
    joules, reason = energy(torch.device("cpu"))
    assert joules is None
    assert "ran on cpu" in reason
    if not torch.cuda.is_available():
        joules, reason = energy(torch.device("cuda"))
        assert joules is None
        assert reason.startswith("NVML does not tell: ")
        assert telemetry(torch.device("cuda")) is None


def test_joules_are_a_thousandth_of_what_the_counter_says(monkeypatch) -> None:
    counter = {"a handle": 2500}
    nvml = SimpleNamespace(nvmlDeviceGetTotalEnergyConsumption=counter.__getitem__)

    class Nvml:
        def __enter__(self):
            return nvml, "a handle"

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(device_module, "_nvml", lambda device: Nvml())
    assert energy(torch.device("cuda")) == (2.5, "")


@pytest.mark.gpu
def test_a_device_counts_its_energy() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; on a machine with one: pytest -m gpu")
    device = torch.device("cuda")
    before, reason = energy(device)
    assert before is not None, reason
    assert telemetry(device)
