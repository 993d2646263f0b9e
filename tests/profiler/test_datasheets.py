"""The table: every figure from somewhere, one line a device, products as their type is rated."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from cast_profiler.datasheets import DATA_SHEETS, Figure, data_sheet


@pytest.mark.parametrize("sheet", DATA_SHEETS, ids=lambda sheet: sheet.name)
def test_every_figure_is_positive_and_names_its_source(sheet) -> None:
    figures = [getattr(sheet, field.name) for field in fields(sheet)]
    found = [one for one in figures if isinstance(one, Figure)]
    assert len(found) == 5 - (sheet.fp8 is None)
    assert all(one.value > 0 and one.source for one in found)


def test_a_device_is_found_by_the_name_that_cuda_gives_it() -> None:
    assert [data_sheet(one.cuda_name) for one in DATA_SHEETS] == list(DATA_SHEETS)
    assert data_sheet("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def test_products_are_rated_by_type() -> None:
    old, new = data_sheet("NVIDIA A100-SXM4-80GB"), data_sheet("NVIDIA B200")
    assert old is not None
    assert new is not None
    assert new.operations_per_second(torch.float16) == new.bf16.value == 2.25e15
    assert new.operations_per_second(torch.float8_e4m3fn) == 4.5e15
    assert old.operations_per_second(torch.float8_e4m3fn) is None
    assert old.operations_per_second(torch.float32) is None
