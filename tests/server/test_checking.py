"""`cast-serve --check`: what it says of what is right, what is wrong and what is worth knowing."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import plain_head
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from cast_drafters.shipped import shipped_head
from cast_kernels.backend import TORCH
from cast_profiler.profile import Profile
from cast_server import build, checking, cli
from cast_server.build import build_core
from cast_server.checking import Check, expected_fingerprint
from cast_server.draft_outline import read_draft_outline
from cast_server.findings import Report
from cast_server.model_files import load_model, resolve_model
from cast_server.outline import DTYPES, read_outline
from cast_server.profiling.identity import fingerprint_of
from cast_server.profiling.stored import stored_path
from cast_server.settings import read_settings

PROFILE = Path(__file__).parents[2] / "docs" / "benchmarks" / "profile-cpu.json"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_models.save(directory)


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return plain_head.save_for_tiny_models(tmp_path_factory.mktemp("head"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(*argv: object) -> Report:
    return Check(read_settings([str(word) for word in argv], {})).run(lambda: None)


def said(report: Report, subject: str, verdict: str) -> str:
    found = [x.text for x in report.findings if (x.subject, x.verdict) == (subject, verdict)]
    assert found, report.to_text()
    return " ".join(found)


def wrong(report: Report) -> dict[str, str]:
    assert not report.is_fine
    assert report.to_text().endswith(f"Cannot be served: {len(_wrong(report))} wrong.")
    return _wrong(report)


def _wrong(report: Report) -> dict[str, str]:
    return {one.subject: one.text for one in report.findings if one.verdict == "wrong"}


def test_the_default_model_is_fine() -> None:
    report = check("--kv-cache-tokens", 8192)
    assert report.is_fine, report.to_text()
    assert "LlamaForCausalLM, bfloat16, 8,192 tokens" in said(report, "model", "ok")
    assert "EAGLE-3 head" in said(report, "drafter", "ok")
    assert "49,152 tokens" in said(report, "tokenizer", "ok")
    assert report.plan is not None
    assert report.plan["KV cache"] == 8192 * 23040
    text = report.to_text()
    assert "8,192 tokens of 23,040 bytes" in text
    assert text.endswith("This can be served.")


def test_the_command_prints_json_and_its_status_tells(tiny, cache, capsys) -> None:
    argv = ["--check", "--json", "--port", "0", "--model", str(tiny)]
    assert cli.main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    sizes = {item["name"]: item["bytes"] for item in document["memory"]["items"]}
    assert sum(sizes.values()) == document["memory"]["total_bytes"]
    kept = document["memory"]
    assert sizes["KV cache"] == kept["kv_cache_tokens"] * kept["kv_bytes_per_token"]
    assert not any(one["verdict"] == "wrong" for one in document["findings"])
    assert cli.main([*argv, "--policy", "fastest"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "Draft policy 'fastest' is not possible" in str(document["findings"])


def test_a_taken_port_is_wrong(tiny, cache, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["--check", "--model", str(tiny), "--port", str(port)]) == 2
    assert f"Port {port} is taken" in capsys.readouterr().out


def test_no_weights_are_loaded(tiny, cache, monkeypatch) -> None:
    monkeypatch.setattr(build, "load_model", None)
    assert check("--model", tiny).is_fine


def _leave_out_a_tensor(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.popitem()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "subject", "sentence"),
    [
        (lambda path: (path / "config.json").unlink(), "model", "it has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), "model", "cannot be loaded"),
        (
            lambda path: (path / "config.json").write_text('{"model_type": "t5"}'),
            "model",
            "",
        ),
        (lambda path: (path / "model.safetensors").unlink(), "weights", "holds no weights"),
        (
            lambda path: (path / "model.safetensors").write_bytes(
                (path / "model.safetensors").read_bytes()[:-100]
            ),
            "weights",
            "is damaged",
        ),
        (
            lambda path: (path / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model.safetensors", "b": "missing.safetensors"}}'
            ),
            "weights",
            "lacks 1 of its 2 weight files, missing.safetensors",
        ),
        (
            lambda path: (path / "model.safetensors.index.json").write_text("{}"),
            "weights",
            "is damaged; copy it again",
        ),
        (_leave_out_a_tensor, "weights", "but the model has"),
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer", ""),
    ],
)
def test_a_broken_directory(tiny, cache, tmp_path, damage, subject, sentence) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    damage(broken)
    found = wrong(check("--model", broken))
    assert set(found) == {subject}
    assert sentence in found[subject]


def test_a_head_of_another_model(tiny, cache) -> None:
    found = wrong(check("--model", tiny, "--head", shipped_head("smollm2-135m-instruct")))
    assert "hidden_size is 576, but the target's hidden states have 64" in found["drafter"]


def test_a_cache_that_is_too_large(tiny, cache) -> None:
    found = wrong(check("--model", tiny, "--kv-cache-tokens", 10**12))
    assert "--kv-cache-tokens 1000000000000 does not fit" in found["memory"]
    assert "tokens would fit" in found["memory"]


def test_everything_that_is_wrong_is_told_at_once(tiny, cache) -> None:
    argv = ["--device", "cuda", "--policy", "fast", "--model", tiny, "--evaluation-models", "x"]
    found = wrong(check(*argv))
    assert set(found) == {"device", "policy", "models"}


@pytest.mark.parametrize("drafter", ["ngram", "eagle", "draft-model"])
def test_the_fingerprint_is_that_of_the_engine(tiny, head, drafter) -> None:
    heads = {"eagle": head, "draft-model": tiny}
    settings = ["--model", tiny, "--dtype", "float32", "--drafter", drafter, "--threads", 1]
    settings += ["--head", heads[drafter]] if drafter in heads else []
    config = read_settings([*map(str, settings), "--kv-cache-tokens", "512"], {}).engine
    files = resolve_model(config.model)
    target = read_outline(files, DTYPES[config.dtype])
    draft = read_draft_outline(config, target, CPU)
    expected = expected_fingerprint(config, target, draft, CPU, TORCH)
    core = build_core(config, *load_model(files, DTYPES[config.dtype]))
    assert expected == fingerprint_of(core, config)


def test_profiles_that_fit_are_stale_or_missing(tiny, cache, monkeypatch) -> None:
    fingerprints = []

    def noting(*args):
        fingerprints.append(expected_fingerprint(*args))
        return fingerprints[-1]

    monkeypatch.setattr(checking, "expected_fingerprint", noting)
    argv = ("--model", tiny)
    assert "Nothing has been measured yet" in said(check(*argv), "profile", "note")
    measured = Profile.load(PROFILE)
    other = replace(fingerprints[0], threads=99)
    replace(measured, fingerprint=other).save(stored_path(other))
    stale = said(check(*argv), "profile", "note")
    assert "measured with threads 99, but here it is" in stale
    file = wrong(check(*argv, "--profile", stored_path(other)))
    assert "measured with threads 99" in file["profile"]
    replace(measured, fingerprint=fingerprints[0]).save(stored_path(fingerprints[0]))
    assert str(cache) in said(check(*argv), "profile", "ok")
    stored_path(fingerprints[0]).write_text("{")
    assert "Measured again at the start" in said(check(*argv), "profile", "note")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--kv-cache-tokens", 128], "holds 128 tokens, so that is the longest prompt and answer"),
        (["--max-num-seqs", 600], "--max-batched-tokens 512 is raised to --max-num-seqs 600"),
        (["--max-draft-rows", 4], "leaves no drafts for 32 sequences"),
        (["--cuda-graphs", 3], "--cuda-graphs 3 comes to nothing on a CPU"),
        (["--threads", 4096], "4096 threads are more than the"),
        (["--policy", "off", "--drafter", "ngram"], "drafts for requests that ask for it only"),
        (["--draft-sources", "text"], "--draft-sources text is for --drafter eagle"),
        (["--profile", "guess"], "costs nobody has measured"),
    ],
)
def test_settings_that_come_to_nothing_are_noted(tiny, cache, argv, sentence) -> None:
    threads = torch.get_num_threads()
    try:
        report = check("--model", tiny, *argv)
    finally:
        torch.set_num_threads(threads)
    assert report.is_fine
    assert sentence in said(report, "settings", "note")


def test_settings_as_they_are_leave_nothing_to_note(tiny, cache) -> None:
    assert [one for one in check("--model", tiny).findings if one.subject == "settings"] == []


def test_a_cache_that_cannot_be_written_is_noted(tiny, monkeypatch) -> None:
    monkeypatch.setenv("CASTSERVE_CACHE", "/dev/null/cache")
    assert "/dev/null/cache cannot be written" in said(check("--model", tiny), "cache", "note")


def test_models_beside_are_looked_at_too(tiny, cache) -> None:
    report = check("--model", tiny, "--evaluation-models", f"other={tiny}")
    assert f"other: {tiny}" in said(report, "models", "ok")
    missing = wrong(check("--model", tiny, "--evaluation-models", "other=no/such"))
    assert "no model 'no/such'" in missing["models"]


def test_a_missing_template_is_noted(tiny, cache) -> None:
    assert "only /v1/completions" in said(check("--model", tiny), "tokenizer", "note")


def test_a_head_for_a_drafter_without_one(tiny, head, cache) -> None:
    found = wrong(check("--model", tiny, "--drafter", "ngram", "--head", head))
    assert "--drafter ngram has no head" in found["drafter"]
