"""The plan of the memory: what it says beside what engines really take, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import plain_head
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from cast_server import build
from cast_server.build import build_core, build_engine, plan_engine
from cast_server.config import EngineConfig
from cast_server.draft_outline import DraftOutline, read_draft_outline
from cast_server.errors import ConfigError
from cast_server.machine import Memory, host_memory, usable_cores
from cast_server.memory_plan import plan_memory, size_text
from cast_server.model_files import ModelFiles, load_model, resolve_model
from cast_server.outline import DTYPES, Outline, empty_model, read_outline
from cast_server.profiling.identity import weight_bytes

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
GIB = 2**30
# What a process grows by at load, to what is planned of weights and head. Beside them there are the
# tokenizer, the calibration and what the allocator does not give back.
GROWTH = (0.95, 1.4)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_models.save(directory)


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return plain_head.save_for_tiny_models(tmp_path_factory.mktemp("head"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_caches_and_weights_are_what_an_engine_takes(model_directory, head, dtype) -> None:
    config = EngineConfig(
        model=str(model_directory), dtype=dtype, head=str(head), kv_cache_tokens=1000
    )
    plan = plan_engine(config, resolve_model(config.model))
    core = build_core(config, *load_model(resolve_model(config.model), DTYPES[dtype]))
    cache, drafts = core.runner.kv_cache_YS2KD, core.drafter.head
    assert plan.kv_tokens == 992  # whole blocks
    assert plan["KV cache"] == cache.numel() * cache.itemsize
    own = (drafts._kv_cache_S2KD, drafts._state_SH[1:])  # one more row stands for nowhere
    assert plan["drafter's cache"] == sum(one.numel() * one.itemsize for one in own)


def test_weights_in_float32_are_those_of_the_layers_and_the_embedding(model_directory) -> None:
    config = EngineConfig(model=str(model_directory), dtype="float32", kv_cache_tokens=64)
    planned = plan_engine(config, resolve_model(config.model))["weights"]
    core = build_core(config, *load_model(resolve_model(config.model), torch.float32))
    embedding = core.runner.model.get_input_embeddings().weight
    real = weight_bytes(core.runner.model) + embedding.numel() * embedding.itemsize
    assert planned == pytest.approx(real, rel=0.02)


def test_the_default_model_takes_what_is_planned() -> None:
    """In a process of its own: what it grows by while it loads."""
    code = """
import json
from cast_server.build import build_engine, plan_engine
from cast_server.config import EngineConfig
from cast_server.machine import resident_bytes
from cast_server.model_files import resolve_model
import transformers
config = EngineConfig(kv_cache_tokens=8192, profile="guess")
plan = plan_engine(config, resolve_model(config.model))
before = resident_bytes()
engine = build_engine(config)
cache = engine._core.runner.kv_cache_YS2KD
print(json.dumps({"grown": resident_bytes() - before, "cache": cache.numel() * cache.itemsize,
                  **{item.name: item.num_bytes for item in plan.items}}))
"""
    roots = ("server", "kernels", "drafters", "profiler")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in roots)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["KV cache"] == found["cache"] == 8192 * 30 * 2 * 3 * 64 * 2
    assert GROWTH[0] < found["grown"] / (found["weights"] + found["draft head"]) < GROWTH[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_of_models_of_other_shapes_every_number_is_counted(family) -> None:
    model = tiny_models.model_of(family)
    empty = empty_model(model.config, torch.bfloat16, Path("here"))
    outline = Outline(ModelFiles(Path("here"), None, "here"), empty, torch.bfloat16)
    assert outline.num_weights == sum(one.numel() for one in model.parameters())
    cuda = outline.weight_bytes(torch.device("cuda"))
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    rest = outline.num_weights - (0 if tied else head.numel())
    assert cuda == 2 * rest + 4 * head.numel()


@pytest.fixture(scope="module")
def outline(model_directory: Path) -> Outline:
    return read_outline(resolve_model(str(model_directory)), torch.float32)


@given(
    free=st.integers(2**20, 2**40),
    slot=st.integers(0, 10_000),
    seqs=st.integers(1, 1000),
    is_cuda=st.booleans(),
)
def test_a_cache_of_no_given_size_always_fits(outline, free, slot, seqs, is_cuda) -> None:
    draft = DraftOutline("eagle", "", weight_bytes=1000, slot_bytes=slot)
    config = EngineConfig(max_num_seqs=seqs, max_batched_tokens=16)
    device = torch.device("cuda") if is_cuda else CPU
    try:
        plan = plan_memory(config, outline, draft, device, Memory(free, free))
    except ConfigError:
        needed = outline.weight_bytes(device) + 1000 + 10 * 2**20
        assert free < needed + 100 * 2**20
    else:
        assert plan.total <= free
        assert plan.kv_tokens <= max(16, seqs * 512)
        assert plan.kv_tokens % config.block_size == 0


def test_what_does_not_fit_is_refused_before_it_is_loaded(model_directory, monkeypatch) -> None:
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(build, "load_model", load)
    monkeypatch.setattr(build, "memory_of", lambda _: Memory(GIB, 2 * GIB))
    config = EngineConfig(model=str(model_directory), kv_cache_tokens=10**9)
    with pytest.raises(
        ConfigError, match=r"--kv-cache-tokens 1000000000 does not fit: .*1 GiB"
    ) as e:
        build_engine(config)
    fitting = int(str(e.value).split(" tokens would fit")[0].rpartition(" ")[2].replace(",", ""))
    plan_engine(config.model_copy(update={"kv_cache_tokens": fitting}), resolve_model(config.model))
    larger = config.model_copy(update={"kv_cache_tokens": fitting + 2 * config.block_size})
    with pytest.raises(ConfigError, match=r"does not fit"):
        plan_engine(larger, resolve_model(config.model))
    monkeypatch.setattr(build, "memory_of", lambda _: Memory(2**16, GIB))
    with pytest.raises(ConfigError, match=r"The model does not fit: .* but 64 KiB are free"):
        build_engine(EngineConfig(model=str(model_directory)))


def test_nothing_is_refused_where_nobody_tells_what_is_free(model_directory, monkeypatch) -> None:
    monkeypatch.setattr(build, "memory_of", lambda _: Memory(GIB, GIB, is_known=False))
    config = EngineConfig(model=str(model_directory), kv_cache_tokens=10**7)
    assert plan_engine(config, resolve_model(config.model)).total > GIB


def test_graphs_are_told_to_be_unmeasured(outline) -> None:
    for name, count in (("ngram", 3), ("eagle", 6)):  # a head's steps are recorded on their own
        plan = plan_memory(
            EngineConfig(cuda_graphs=3),
            outline,
            DraftOutline(name, ""),
            torch.device("cuda"),
            Memory(GIB, GIB),
        )
        [graphs] = [item for item in plan.items if item.name == "CUDA graphs"]
        assert graphs.num_bytes is None
        assert graphs.text.startswith(f"{count} of them")
        assert "CUDA graphs (not measured)" in plan.summary()


def test_a_draft_model_is_counted_with_its_cache(model_directory, outline) -> None:
    config = EngineConfig(drafter="draft-model", head=str(model_directory))
    draft = read_draft_outline(config, outline, CPU)
    assert draft.weight_bytes == 4 * outline.num_weights
    assert draft.slot_bytes == 2 * 2 * 2 * 16 * 4  # layers, key and value, heads, size, bytes


def test_a_container_may_have_less_than_its_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  4194304 kB\n")
    assert host_memory(meminfo, tmp_path) == Memory(4 * GIB, 8 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert host_memory(meminfo, tmp_path) == Memory(4 * GIB, 8 * GIB)
    (tmp_path / "memory.max").write_text(f"{2 * GIB}\n")
    assert host_memory(meminfo, tmp_path) == Memory(GIB, 2 * GIB)
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    assert host_memory(meminfo, tmp_path) == Memory(GIB + GIB // 2, 2 * GIB)
    assert not host_memory(tmp_path / "none", tmp_path).is_known


def test_a_container_may_have_fewer_processors(tmp_path: Path) -> None:
    all_of_them = usable_cores(tmp_path)
    assert all_of_them >= 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == all_of_them
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (2**20, "1 MiB"), (1500 * 2**20, "1.46 GiB")],
)
def test_sizes_have_three_figures(size, text) -> None:
    assert size_text(size) == text
