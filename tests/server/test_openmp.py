"""Whoever has computed lets go of its OpenMP workers, or those of the engine's thread would sleep
between two loops."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny_models

COUNT = """
import os, sys, threading, torch
from cast_server.openmp import in_passing, release_workers

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
before = threads()
x = torch.ones(1 << 22).exp()
with_team = threads()
release_workers()
after = threads()
x.exp()
again = threads()
in_passing(x.exp)
print(before, with_team, after, again, threads())
"""

ENGINE = """
import os, sys, torch
from cast_server.build import build_engine
from cast_server.config import EngineConfig

torch.set_num_threads(2)
sys.stdout.flush()
engine = build_engine(EngineConfig(model=sys.argv[1], threads=2, kv_cache_tokens=256))
built = len(os.listdir("/proc/self/task"))
torch.ones(1 << 22).exp()
print(len(os.listdir("/proc/self/task")) - built)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is Linux's")


def output_of(program: str, *args: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [int(word) for word in done.stdout.split()]


def test_a_team_ends_and_another_comes_when_it_is_needed() -> None:
    before, with_team, after, again, left = output_of(COUNT)
    assert with_team == again == before + 1
    assert after == left == before


def test_who_has_loaded_an_engine_keeps_no_workers(tmp_path) -> None:
    assert output_of(ENGINE, str(tiny_models.save(tmp_path / "tiny"))) == [1]
