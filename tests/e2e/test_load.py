"""`cast-bench serve` on the real server: what it counts is what the server has done."""

from __future__ import annotations

import json

import pytest
from e2e.serving import MODEL

from cast_bench import cli


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_load_counts_tokens_and_drafts(server, tmp_path, endpoint, capsys) -> None:
    report = tmp_path / "load.json"
    flags = ["--base-url", server.url, "--endpoint", endpoint, "--num-prompts", "4", "--ignore-eos"]
    flags += ["--output-len", "16", "--max-concurrency", "2", "--num-warmups", "0"]
    flags += ["--extra-body", '{"speculation": {"policy": "tree:8"}}', "--save-detailed"]
    assert cli.main(["serve", *flags, "--json", str(report)]) == 0
    document = json.loads(report.read_text())
    assert document["provenance"]["arguments"]["model"] == MODEL
    [point] = document["points"]
    assert (point["completed"], point["failed"]) == (4, 0)
    assert point["total_output_tokens"] == 64
    assert point["total_input_tokens"] > 20
    assert point["itl_counted_in"] == "tokens"
    drafts = point["spec_decode"]
    assert drafts["requests"] == 4
    # all tokens but the first of each answer, which the prompt's own pass chooses
    assert 0 < drafts["num_accepted_draft_tokens"] == 60 - drafts["num_spec_steps"]
    chunks = [request["chunk_tokens"] for request in point["requests"]]
    assert list(map(sum, chunks)) == [16] * 4
    assert max(map(max, chunks)) > 1  # an accepted path comes in one chunk
    assert "tokens a step." in capsys.readouterr().out


def test_refusals_are_counted_under_their_status(server, capsys) -> None:
    flags = ["--base-url", server.url, "--num-prompts", "2", "--num-warmups", "0"]
    assert cli.main(["serve", *flags, "--temperature", "-1"]) == 1
    assert "FAILED 2 times: HTTP 400: temperature must be between" in capsys.readouterr().out
