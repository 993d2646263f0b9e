"""What steps are assumed to cost before anybody has measured them here."""

from __future__ import annotations

import logging

import pytest
import tiny_models
import torch

from cast_profiler.datasheets import DATA_SHEETS
from cast_server import build

CUDA = torch.device("cuda")


@pytest.fixture
def runner(monkeypatch, caplog):
    """Of a tiny model in bfloat16, said to be on a device that is called as the test likes."""
    caplog.set_level(logging.INFO, "cast_server")
    runner = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama)).runner

    def on(name: str, dtype: torch.dtype = torch.bfloat16):
        monkeypatch.setattr(runner, "device", CUDA)
        monkeypatch.setattr(runner, "dtype", dtype)
        monkeypatch.setattr(build, "device_name", lambda _: name)
        return runner

    return on


@pytest.mark.parametrize("sheet", DATA_SHEETS, ids=lambda sheet: sheet.name)
def test_a_known_device_is_as_fast_as_its_sheet_says(sheet, runner, caplog) -> None:
    cost = build._guessed_cost(runner(sheet.cuda_name))
    assert cost.bytes_per_second == sheet.bytes_per_second.value
    assert cost.flops_per_second == sheet.bf16.value
    assert sheet.name in caplog.text


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA H200 MIG 1g.18gb", "Radeon"])
def test_an_unknown_device_is_guessed_and_told_of(name, runner, caplog) -> None:
    cost = build._guessed_cost(runner(name))
    assert (cost.bytes_per_second, cost.flops_per_second) == (1e12, 1e14)
    assert f"no data sheet for {name}: unless steps are measured, 1e+12 bytes" in caplog.text


def test_no_sheet_rates_products_of_float32(runner) -> None:
    cost = build._guessed_cost(runner("NVIDIA H200", torch.float32))
    assert (cost.bytes_per_second, cost.flops_per_second) == (4.8e12, 1e14)


def test_a_cpu_is_guessed() -> None:
    cost = build._guessed_cost(
        tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama)).runner
    )
    assert (cost.bytes_per_second, cost.flops_per_second) == (2e10, 2e11)
