"""Profiles of real tiny engines, and the command that makes them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import plain_head as plain
import pytest
import tiny_models
from engine.driving import request, run
from paged_reference import PAGED

from cast_drafters.eagle.checkpoint import write_head
from cast_profiler.grid import GridPoint
from cast_profiler.profile import Profile
from cast_server import build
from cast_server.config import EngineConfig
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError
from cast_server.profiling import passes, profile_for, stored
from cast_server.profiling.cli import main
from cast_server.profiling.identity import fingerprint_of, weight_bytes
from cast_server.profiling.measuring import Effort, measure_profile
from cast_server.profiling.scratch import fill_context, fits

SHORT = Effort(budget_seconds=1.5, max_rows=8, contexts=(32, 96))
VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "profiles"


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("head")
    sizes = {"target_hidden_size": WIDTH, "vocab_size": VOCAB, "draft_vocab_size": 50}
    config = plain.config(**sizes, layer_ids=(0, 1, 1))
    write_head(directory, config, plain.weights(config))
    return directory


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_models.save(directory)


def engine(**changes):
    """An engine and the configuration that it was made of."""
    changes = {"drafter": "ngram", "kv_cache_tokens": 1024} | changes
    core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama), **changes)
    return core, EngineConfig(**changes)


def eagle_engine(head: Path):
    return engine(drafter="eagle", head=str(head), draft_sources="text")


def answers(core) -> dict[str, list[int]]:
    chosen = random.Random(1)
    params = [
        SamplingParams(max_tokens=20, ignore_eos=True, temperature=heat) for heat in (0.0, 0.9)
    ]
    requests = [
        request(str(i), chosen.choices(range(VOCAB), k=20 + i), params[i % 2], "tree:6", seed=i)
        for i in range(4)
    ]
    return {name: answer.tokens for name, answer in run(core, requests).items()}


def test_a_profile_of_an_engine_with_a_head(head) -> None:
    core, config = eagle_engine(head)
    profile = measure_profile(core, config, SHORT)
    for surface in (profile.verify, profile.draft):
        assert surface is not None
        assert {1, 8} <= {p.rows for p in surface.points if (p.sequences, p.keys) == (1, 32)}
        assert {p.sequences for p in surface.points} >= {1, 2}
        assert {p.keys for p in surface.points if p.sequences == 1} == {32, 96}
    assert 0 < profile.memory.seconds < 1
    assert profile.fingerprint.drafter == "eagle"
    assert profile.provenance["rounds"] >= 1
    cost = profile.cost()
    assert 0 < cost.draft_seconds(4, 64) < 1
    assert 0 < cost.verify_seconds(4, 64) < 1


def test_a_profile_of_an_engine_with_a_draft_model(model_directory) -> None:
    core, config = engine(drafter="draft-model", head=str(model_directory))
    profile = measure_profile(core, config, SHORT)
    assert profile.draft is not None
    assert {p.rows for p in profile.draft.points} == {1, 2, 4}
    cost = profile.cost()
    assert cost.draft_seconds(6, 32) == pytest.approx(6 * cost.draft_seconds(1, 32))
    assert all(not core.drafter.cached(f"profile-0-of-1-{context}") for context in (32, 96))


def test_ngrams_have_no_levels() -> None:
    core, config = engine()
    profile = measure_profile(core, config, SHORT)
    assert profile.draft is None
    assert profile.cost().draft_seconds(4, 64) == 0


def test_the_engine_is_as_it_was(head) -> None:
    untouched, _ = eagle_engine(head)
    expected = answers(untouched)
    core, config = eagle_engine(head)
    pool = core.scheduler.pool
    free_before = list(pool._free)
    measure_profile(core, config, SHORT)
    assert list(pool._free) == free_before
    assert not core.has_work
    assert not core.drafter.stamps.stamp_S.any()
    assert answers(core) == expected
    statistics = [core.drafter.stamps.prefixes, core.drafter.stamps.stamp_S.sum()]
    assert statistics == [untouched.drafter.stamps.prefixes, untouched.drafter.stamps.stamp_S.sum()]


@pytest.mark.parametrize("tokens", [64, 100, 512])
def test_a_small_cache_shrinks_the_grid(tokens, head) -> None:
    core, config = engine(drafter="eagle", head=str(head), kv_cache_tokens=tokens)
    profile = measure_profile(core, config, Effort(0.2))
    assert 1 in {p.rows for p in profile.verify.points}
    assert all(p.rows + p.keys <= tokens for p in profile.verify.points)


def test_a_pass_has_the_rows_and_keys_that_it_is_said_to_have(monkeypatch) -> None:
    core, _ = engine()
    point = GridPoint(rows=7, sequences=3, context=40)
    assert fits(core, point)
    assert not fits(core, GridPoint(rows=2, sequences=3, context=40))
    assert not fits(core, GridPoint(rows=7, sequences=1, context=1024))
    core.runner.kv_cache_YS2KD.fill_(float("nan"))
    fill_context(core, [point])
    seen = []
    forward = core.runner.forward
    monkeypatch.setattr(core.runner, "forward", lambda batch: seen.append(batch) or forward(batch))
    assert passes.VerifyPass(core, point)() > 0
    (batch,) = seen
    assert [one.num_rows for one in batch.plan.rows] == [3, 2, 2]
    assert [one.num_keys - one.num_rows for one in batch.plan.rows] == [40] * 3
    assert len(batch.logit_rows) == len(batch.input_ids_N) == 7
    assert len({int(slot) for one in batch.plan.rows for slot in one.slots_L}) == 127
    context = core.runner.kv_cache_YS2KD[:, batch.plan.rows[0].slots_L]
    assert context.isfinite().all()
    assert context.float().std() > 0.5


def test_another_head_is_another_engine(head, tmp_path) -> None:
    sizes = {"target_hidden_size": WIDTH, "vocab_size": VOCAB, "draft_vocab_size": 60}
    other = plain.config(**sizes, layer_ids=(0, 1, 1))
    write_head(tmp_path, other, plain.weights(other))
    marks = [fingerprint_of(*eagle_engine(directory)) for directory in (head, head, tmp_path)]
    assert marks[0] == marks[1]
    difference = marks[0].difference(marks[2])
    assert difference is not None
    assert difference[0] == "head"


def test_weights_are_counted_once() -> None:
    model = tiny_models.randomised(tiny_models.llama)
    linear = sum(4 * w.numel() for n, w in model.named_parameters() if w.ndim == 2)
    embedding = 4 * model.get_input_embeddings().weight.numel()
    assert weight_bytes(tiny_models.tiny_core(model).runner.model) == linear - embedding


def test_the_second_start_measures_nothing(monkeypatch, cache) -> None:
    first = profile_for(*engine(), effort=SHORT)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(stored, "measure_profile", None)
    assert profile_for(*engine(), effort=SHORT) == first


def test_another_engine_is_measured_for_itself(cache, head) -> None:
    profile_for(*engine(), effort=SHORT)
    profile_for(*eagle_engine(head), effort=SHORT)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_is_measured_again(cache, caplog) -> None:
    core, config = engine()
    path = stored.stored_path(fingerprint_of(core, config))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    profile = profile_for(core, config, effort=SHORT)
    assert "Measuring again" in caplog.text
    assert Profile.load(path) == profile


def test_what_a_busy_machine_gave_is_neither_used_nor_kept(cache, caplog) -> None:
    assert profile_for(*engine(), effort=Effort(1e-9, max_rows=8, contexts=(32, 96))) is None
    assert "too busy" in caplog.text
    assert not cache.exists()


def test_an_engine_on_a_busy_machine_goes_by_the_guess(monkeypatch, cache) -> None:
    core, config = engine()
    guess = core.planner.cost
    monkeypatch.setattr("cast_server.build.profile_for", lambda *_: None)
    build.prepare(core, config)
    assert core.planner.cost is guess


def test_a_cache_that_cannot_be_written_stops_nothing(monkeypatch, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "file"))
    assert profile_for(*engine(), effort=SHORT).verify.points
    assert "cannot be kept" in caplog.text


def test_a_named_file_of_something_else_is_refused(tmp_path, head) -> None:
    file = tmp_path / "profile.json"
    core, config = engine()
    measure_profile(core, config, SHORT).save(file)
    assert profile_for(core, config, file) == Profile.load(file)
    with pytest.raises(ConfigError, match="drafter 'ngram', but here it is 'eagle'"):
        profile_for(*eagle_engine(head), file)
    with pytest.raises(ConfigError, match="cannot be read"):
        profile_for(core, config, tmp_path / "none.json")


# The command


@pytest.fixture
def flags(model_directory) -> list[str]:
    flags = [f"--model={model_directory}", "--dtype=float32", "--threads=1", "--drafter=ngram"]
    return [*flags, "--kv-cache-tokens=1024"]


def measure(flags, *more: str) -> int:
    return main([*more, *flags, "--budget=0.3", "--max-rows=8", "--contexts", "32", "96"])


def test_measured_shown_checked_and_compared(tmp_path, flags, capsys, cache) -> None:
    page = tmp_path / "page.html"
    assert main(["check", *flags]) == 1
    assert "run cast-profile" in capsys.readouterr().out
    assert measure(flags, f"--html={page}") == 0
    (file,) = cache.iterdir()
    printed = capsys.readouterr().out
    assert str(file) in printed
    for text in ("32 keys", "96 keys", "beyond 8 rows", "Floor of any pass", "off by"):
        assert text in printed
    assert main(["check", *flags]) == 0
    other = tmp_path / "other.json"
    assert measure(flags, f"--out={other}") == 0
    capsys.readouterr()
    assert main(["show", str(other)]) == 0
    assert "tiny in float32" in capsys.readouterr().out
    assert main(["compare", str(file), str(file)]) == 0
    ratios = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert ratios[0] == "B/A"
    assert set(ratios[1:]) == {"1.00"}


def test_the_page_stands_alone(tmp_path, flags, head) -> None:
    core, config = eagle_engine(head)
    file, page = tmp_path / "profile.json", tmp_path / "page.html"
    measure_profile(core, config, SHORT).save(file)
    assert main(["show", str(file), f"--html={page}"]) == 0
    html = page.read_text()
    for text in ("<svg", "verify, 32 keys", "verify, 96 keys", "draft level, 32 keys", "floor"):
        assert text in html
    assert "http" not in html
    assert "src=" not in html
    assert html.count("<circle") >= 9


def test_check_says_what_differs(tmp_path, flags, capsys) -> None:
    file = tmp_path / "profile.json"
    assert measure(flags, f"--out={file}") == 0
    assert main(["check", str(file), *flags]) == 0
    document = json.loads(file.read_text())
    document["fingerprint"]["threads"] = 64
    file.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["check", str(file), *flags]) == 1
    assert "threads 64, but here it is 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "none.json"], "cannot be read"),
        (["--model", "no-such-model"], "There is no model"),
        (["--threads", "0"], "--threads 0"),
        (["--head", "x", "--dtype", "int3"], "--dtype int3"),
    ],
)
def test_wrong_settings_are_a_sentence(words, sentence, capsys) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("cast-profile: ")
    assert sentence in error


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("examples:", "compare A B", "check [FILE]", "cast-profile --quick"):
        assert word in text


def test_costs_step_at_the_buckets_that_passes_are_padded_to(head, monkeypatch) -> None:
    monkeypatch.setattr(build, "choose_backend", lambda device, wanted: PAGED)
    changes = {"drafter": "eagle", "head": str(head), "draft_sources": "", "max_draft_rows": 12}
    core, config = engine(cuda_graphs=3, max_num_seqs=4, **changes)
    profile = measure_profile(core, config, SHORT)
    assert core.target.buckets == core.drafter.passes.buckets == (4, 8, 12)
    cost = profile.cost()
    assert profile.draft is not None
    for surface, seconds in (
        (profile.verify, cost.verify_seconds),
        (profile.draft, cost.draft_seconds),
    ):
        assert surface.buckets == (4, 8, 12)
        at = {p.rows: p for p in surface.points if (p.sequences, p.keys) == (1, 32)}
        assert set(at) == {4, 8}
        times = [seconds(rows, 32) for rows in range(1, 9)]
        assert len(set(times[:4])) == len(set(times[4:])) == 1
        # two measured times may happen to be equal, so each step is compared with its own
        assert (times[0], times[4]) == pytest.approx((at[4].seconds, at[8].seconds))
    again = Profile._from_document(json.loads(profile._to_json()))
    assert again.verify.buckets == (4, 8, 12)
    assert again.cost().verify_seconds(5, 32) == cost.verify_seconds(8, 32)


def test_other_buckets_are_another_engine(monkeypatch) -> None:
    usual = fingerprint_of(*engine())
    monkeypatch.setattr(build, "choose_backend", lambda device, wanted: PAGED)
    marks = [fingerprint_of(*engine(cuda_graphs=count)) for count in (0, 2, 2, 3)]
    assert usual.backend == "sdpa"
    assert marks[1] == marks[2]
    assert len({one.digest() for one in (usual, *marks)}) == 4
