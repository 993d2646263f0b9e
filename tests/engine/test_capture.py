"""What CUDA graphs are recorded of: told to devices that cannot be read from, and told twice.

The meta device stands in for a GPU. It computes nothing, so whoever asks it for a number fails; and
it refuses tensors of the host among its own. The engine is built on it with Triton's kernels, whose
launches are noted with their grids and arguments.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run
from torch import Tensor
from tracing import launches, trace

from cast_drafters.eagle import passes
from cast_drafters.eagle.checkpoint import write_head
from cast_server.engine import device_pass, model_runner
from cast_server.engine.request import SamplingParams

VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]
FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt2")
SETTINGS = {"kernels": "triton", "cuda_graphs": 3, "max_draft_rows": 16, "max_num_seqs": 4}
KERNELS = ("kv_write.kernel._kernel", "tree_attention.kernel._split_kernel")
KERNELS += ("gumbel.kernel._tile_kernel", "gumbel.kernel._combine_kernel")
KERNELS += ("tree_accept.kernel._kernel", "kv_commit.kernel._kernel")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def write_random(directory, version) -> str:
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 64}
    if version == 1:
        config = plain.config_v1(hidden_size=WIDTH, head_dim=16, **sizes)
        plain.write_v1(directory, config, plain.weights_v1(config))
    else:
        sizes |= {"target_hidden_size": WIDTH, "draft_vocab_size": 200, "layer_ids": (0, 1, 1)}
        config = plain.config(**sizes, fc_norm=True)
        write_head(directory, config, plain.weights(config))
    return str(directory)


@pytest.fixture
def unread_core(monkeypatch):
    """Engines on the meta device; only the proof at load, which reads, is left out."""
    nothing = torch.zeros(12, dtype=torch.int64, device="meta")
    monkeypatch.setattr(model_runner.ModelRunner, "_make_probe", lambda _: (nothing, nothing))
    monkeypatch.setattr(model_runner.ModelRunner, "_probe_error", lambda *_: 0.0)

    def make(family="llama", **changes):
        model = tiny_models.model_of(family)
        return tiny_models.tiny_core(model, device="meta", **SETTINGS | changes)

    return make


def trace_step(core, bucket) -> str:
    inputs = core.target._buffers.inputs(bucket.size)
    return trace(lambda given: device_pass.verify_rows(core.runner, given), inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_asks_nothing_of_the_device(unread_core, family) -> None:
    core = unread_core(family)
    layers = core.runner.model.config.num_hidden_layers
    with launches(is_run=False):
        for bucket in core.target._buckets:
            code = trace_step(core, bucket)
            counts = [code.count(f"cast_kernels.{name}") for name in KERNELS]
            assert counts == [layers, layers, 1, 1, 1, 1]
    assert [bucket.size.rows for bucket in core.target._buckets] == [4, 8, 16]


@pytest.mark.parametrize("version", [1, 3])
def test_a_level_asks_nothing_of_the_device(unread_core, tmp_path, version) -> None:
    core = unread_core(drafter="eagle", head=write_random(tmp_path, version), draft_sources="")
    levels = core.drafter.passes
    with launches(is_run=False):
        for bucket in levels._buckets:
            code = trace(core.drafter.head.level, levels._buffers.inputs(bucket.size))
            assert [code.count(f"cast_kernels.{name}") for name in KERNELS[:2]] == [1, 1]
        observed = trace_step(core, core.target._buckets[-1])
    assert observed.count("index_put_") >= 2  # the head takes in what it is shown, and moves it


@dataclass(frozen=True)
class Numbers:
    numbers: Tensor


def wait(given):
    return given.numbers * given.numbers.sum().item()


def branch(given):
    return given.numbers if given.numbers.sum() > 0 else -given.numbers


def count(given):
    return given.numbers[given.numbers > 0]


def bring(given):
    return given.numbers + torch.tensor([1.0, 2.0, 3.0], device=given.numbers.device)


def send(given):
    return given.numbers + torch.ones(3).to(given.numbers.device)


ON_BOTH = [(function, device) for function in (wait, branch) for device in ("meta", "cpu")]


@pytest.mark.parametrize(
    ("function", "device"), [*ON_BOTH, (count, "meta"), (send, "meta"), (bring, "cpu")]
)
def test_the_check_finds_what_it_looks_for(function, device) -> None:
    numbers = Numbers(torch.ones(3, device=device))
    with pytest.raises((RuntimeError, NotImplementedError)):
        trace(function, numbers)
    assert trace(lambda given: given.numbers + 1, numbers)


def requests():
    chosen = random.Random(0)
    lengths, heats = (3, 14, 6), (0.0, 0.9, 0.0)
    return [
        request(
            str(i),
            [chosen.randrange(VOCAB) for _ in range(length)],
            SamplingParams(max_tokens=8, ignore_eos=True, temperature=heat),
            ("chain:3", "tree:5", "tree:2")[i],
            seed=i,
        )
        for i, (length, heat) in enumerate(zip(lengths, heats, strict=True))
    ]


def test_all_steps_of_a_bucket_are_one_graph(tmp_path, monkeypatch) -> None:
    """A run on the interpreter, whose every pass is traced before it is made.

    The head drafts, but the target gets other trees, of which parts are accepted.
    """
    plainly = run(tiny_models.tiny_core(tiny_models.model_of("llama")), requests())
    changes = {"drafter": "eagle", "head": write_random(tmp_path, 3), "draft_sources": ""}
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), **SETTINGS | changes)
    core.grown = None  # which would ask no drafter for trees
    truth = {one.id: [*one.prompt_token_ids, *plainly[one.id].tokens] for one in requests()}
    adversary, propose = Adversary(VOCAB, 5, False, truth), core.drafter.propose
    core.drafter.propose = lambda asked, gate: propose(asked, gate) and adversary.propose(asked)
    seen: dict[tuple[str, int], list[str]] = {}

    def watch(module, name, function, rows_of) -> None:
        def traced(owner, inputs):
            code = trace(lambda given: function(owner, given), inputs)
            seen.setdefault((name, rows_of(inputs)), []).append(code)
            return function(owner, inputs)

        monkeypatch.setattr(module, name, traced)

    watch(device_pass, "verify_rows", device_pass.verify_rows, lambda i: len(i.batch.slots_M))
    watch(passes, "_run", passes._run, lambda i: len(i.rows.slots_N))
    with launches(is_run=True):
        answers = run(core, requests())
    assert {k: a.tokens for k, a in answers.items()} == {k: a.tokens for k, a in plainly.items()}
    repeated = {key: codes for key, codes in seen.items() if key[1] in core.target.buckets}
    assert all(len(set(codes)) == 1 for codes in repeated.values())
    assert {name for (name, _), codes in repeated.items() if len(codes) > 1} == {
        "verify_rows",
        "_run",
    }
    assert sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values()) > 4
    assert len({codes[0] for codes in repeated.values()}) == len(repeated)


def test_inputs_stay_where_they_are() -> None:
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), **SETTINGS)
    memory = core.target._buffers._fixed
    places = {name: one.data_ptr() for name, one in memory.device.items()}
    host_places = {name: one.ctypes.data for name, one in memory.host.items()}
    pages = memory._page_BP.data_ptr()
    run(core, requests())
    assert {name: one.data_ptr() for name, one in memory.device.items()} == places
    assert {name: one.ctypes.data for name, one in memory.host.items()} == host_places
    assert memory._page_BP.data_ptr() == pages
    sizes = [bucket.size for bucket in core.target._buckets]
    for size in sizes:
        inputs = memory.batch(size)
        assert inputs.page_BP.data_ptr() == pages
        assert inputs.context_B.data_ptr() == places["context"]
