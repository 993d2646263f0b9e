"""The page of floors: it is what the command writes, and its numbers are those of the tables."""

from __future__ import annotations

from pathlib import Path

from cast_bench import rooflines
from cast_bench.kernels.ops import ops
from cast_bench.kernels.shapes import MODELS, Step
from cast_profiler.datasheets import DATA_SHEETS

ROOT = Path(__file__).parents[2]


def test_the_page_in_the_repository_is_what_the_command_writes(tmp_path) -> None:
    out = tmp_path / "new" / "page.md"
    assert rooflines.main(["--out", str(out)]) == 0
    assert (ROOT / rooflines.PAGE).read_text() == out.read_text()


def test_it_says_that_nothing_was_timed(capsys) -> None:
    assert rooflines.main([]) == 0
    assert "Computed on paper: nothing on this page was timed." in capsys.readouterr().out


def test_a_floor_by_hand() -> None:
    """Llama on an H200: 8 sequences of 4112 keys and values, 8 heads of 128, 2 bytes; 4.8 TB/s."""
    keys = 8 * 4112 * 2 * 8 * 128 * 2
    op = next(one for one in ops(MODELS["llama-3.1-8b"], Step()) if one.name == "tree_attention")
    floor = op.work.floor_seconds(4.8e12, 989.5e12)
    assert keys / 4.8e12 < floor < 1.02 * keys / 4.8e12
    line = next(one for one in rooflines.page().splitlines() if "heads 32/8 by 128" in one)
    assert f"| {1e6 * floor:.3g} |" in line


def test_operations_decide_where_there_are_many_rows() -> None:
    """In bold, as a page's legend says."""
    op = next(
        one for one in ops(MODELS["llama-3.1-8b"], Step(rows=512)) if one.name == "packed_linear"
    )
    assert all(rooflines._floor(op, sheet).startswith("**") for sheet in DATA_SHEETS)
