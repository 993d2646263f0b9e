"""What is counted is what happened: every count of known runs, against what the answers say."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from itertools import zip_longest

import pytest
import tiny_models
from engine.driving import request
from observed_server import counters, families, observed, scrape, value

from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.request import SamplingParams

PROMPTS = ("the cat and the cat and the cat and the", "another stop, another stop", "the end")
LENGTHS = (24, 17, 1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture
def core():
    return tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama), max_num_seqs=4)


@pytest.fixture
def engine(core):
    engine = AsyncEngine(core, "tiny")
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def client(engine):
    with observed(engine) as client:
        yield client


def ask(client, prompt, max_tokens, **fields) -> dict:
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask_all(client, policy: str) -> list[dict]:
    return [
        ask(client, prompt, length, speculation={"policy": policy})
        for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
    ]


def test_every_count_of_a_known_run(client, core) -> None:
    # twice the same prompts: the second time they come out of the cache
    answers = [one for policy in ("off", "chain:3", "tree:6") for one in ask_all(client, policy)]
    samples = scrape(client)
    usage = [one["usage"] for one in answers]
    drafting = [one["metrics"]["speculative_decoding"] for one in answers]
    count = len(answers)
    prompts = sum(one["prompt_tokens"] for one in usage)
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in usage)
    generated = 3 * sum(LENGTHS)
    assert cached > 0
    steps = sum(one["num_spec_steps"] for one in drafting)
    for name, expected in {
        "prompt_tokens": prompts,
        "generation_tokens": generated,
        "prefix_cache_queries": prompts,
        "prefix_cache_hits": cached,
        "num_preemptions": 0,
        "spec_decode_num_draft_tokens": sum(one["num_draft_tokens"] for one in drafting),
        "spec_decode_num_accepted_tokens": sum(
            one["num_accepted_draft_tokens"] for one in drafting
        ),
    }.items():
        assert value(samples, f"vllm:{name}_total") == expected, name
    for name, expected in {
        "time_to_first_token_seconds": count,
        "inter_token_latency_seconds": generated - count,
        "request_time_per_output_token_seconds": count - 3,  # a single token has no mean
        "e2e_request_latency_seconds": count,
        "request_queue_time_seconds": count,
        "request_inference_time_seconds": count,
        "request_prefill_time_seconds": count,
        "request_decode_time_seconds": count,
        "request_prompt_tokens": count,
        "request_generation_tokens": count,
        "iteration_tokens_total": steps + count,  # each prompt took one step
    }.items():
        assert value(samples, f"vllm:{name}_count") == expected, name
    assert value(samples, "vllm:request_prompt_tokens_sum") == prompts
    assert value(samples, "vllm:request_generation_tokens_sum") == generated
    assert value(samples, "vllm:iteration_tokens_total_sum") == prompts - cached + generated
    reasons = {"length": count, "stop": 0, "abort": 0, "error": 0}
    for reason, expected in reasons.items():
        assert value(samples, "vllm:request_success_total", finished_reason=reason) == expected
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert value(samples, f"vllm:{name}") == 0, name


def test_accepted_tokens_by_position(client) -> None:
    drafting = [one["metrics"]["speculative_decoding"] for one in ask_all(client, "chain:3")]
    histograms = zip_longest(*(one["acceptance_histogram"] for one in drafting), fillvalue=0)
    by_length = [sum(column) for column in histograms]
    assert sum(by_length[1:]) > 0
    samples = scrape(client)
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    for position in range(len(by_length) - 1):
        expected = sum(by_length[position + 1 :])
        assert value(samples, name, position=str(position)) == expected
    assert (name, frozenset({("position", str(len(by_length) - 1))})) not in samples
    assert value(samples, "castserve_accepted_tokens_by_source_total", source="ngram") == sum(
        k * n for k, n in enumerate(by_length)
    )


@pytest.mark.parametrize(
    ("policy", "shapes"), [("off", {"off"}), ("chain:3", {"off", "chain"}), ("tree:6", {"tree"})]
)
def test_what_was_drafted(client, policy, shapes) -> None:
    drafting = [one["metrics"]["speculative_decoding"] for one in ask_all(client, policy)]
    samples = scrape(client)
    counts = {
        shape: value(samples, "castserve_draft_shapes_total", shape=shape)
        for shape in ("off", "chain", "tree")
    }
    assert {shape for shape, number in counts.items() if number} >= shapes - {"off"}
    if policy != "tree:6":
        assert not counts["tree"]
    steps = sum(one["num_spec_steps"] for one in drafting)
    assert sum(counts.values()) == value(samples, "castserve_draft_nodes_count") == steps
    assert value(samples, "castserve_draft_nodes_sum") == sum(
        one["num_draft_tokens"] for one in drafting
    )
    drafts = value(samples, "vllm:spec_decode_num_drafts_total")
    assert drafts == counts["chain"] + counts["tree"]


def test_times_add_up(client) -> None:
    """Shares of steps' gaps are the time from first to last token, however many came at once."""
    answers = ask_all(client, "tree:6")
    samples = scrape(client)
    decode = value(samples, "vllm:request_decode_time_seconds_sum")
    assert value(samples, "vllm:inter_token_latency_seconds_sum") == pytest.approx(decode)
    told = sum(one["metrics"]["generation_time_ms"] for one in answers) / 1e3
    assert told == pytest.approx(decode)
    first = sum(one["metrics"]["time_to_first_token_ms"] for one in answers) / 1e3
    assert value(samples, "vllm:time_to_first_token_seconds_sum") == pytest.approx(first)
    queue, prefill, inference, total = (
        value(samples, f"vllm:{name}_sum")
        for name in (
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "request_inference_time_seconds",
            "e2e_request_latency_seconds",
        )
    )
    assert queue + prefill == pytest.approx(first)
    assert prefill + decode == pytest.approx(inference)
    assert queue + inference <= total < queue + inference + 0.5
    # of three, as a busy machine takes the engine's thread away between its steps
    assert max(_busy_share(client) for _ in range(3)) > 0.9
    assert value(samples, "castserve_engine_busy_seconds_total", work="background") == 0


def _busy_share(client) -> float:
    """Of the time that a few requests more are being worked on."""
    names = ("castserve_engine_busy_seconds_total", "vllm:request_inference_time_seconds_sum")
    before, _, after = scrape(client), ask_all(client, "tree:6"), scrape(client)
    busy = value(after, names[0], work="requests") - value(before, names[0], work="requests")
    return busy / (value(after, names[1]) - value(before, names[1]))


def test_the_answer_tells_its_times(client) -> None:
    one = ask(client, PROMPTS[0], 12)
    metrics = one["metrics"]
    assert 0 <= metrics["queue_time_ms"] <= metrics["time_to_first_token_ms"]
    assert metrics["mean_itl_ms"] == pytest.approx(metrics["generation_time_ms"] / 11)
    inference = metrics["time_to_first_token_ms"] - metrics["queue_time_ms"]
    inference += metrics["generation_time_ms"]
    assert metrics["tokens_per_second"] == pytest.approx(12e3 / inference)
    assert ask(client, PROMPTS[0], 1)["metrics"]["mean_itl_ms"] is None
    two = ask(client, PROMPTS[0], 12, n=2)["metrics"]
    assert two["mean_itl_ms"] <= two["generation_time_ms"] / 11 + 1e-6


def test_counters_never_fall_while_the_server_is_busy(client) -> None:
    done = threading.Event()

    def work() -> None:
        for _ in range(3):
            ask_all(client, "tree:6")
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    scrapes = [scrape(client)]
    running = 0.0
    while not done.is_set():
        scrapes.append(scrape(client))
        running = max(running, value(scrapes[-1], "vllm:num_requests_running"))
    worker.join()
    scrapes.append(scrape(client))
    assert running == 1
    assert len(scrapes) > 5
    for earlier, later in zip(map(counters, scrapes), map(counters, scrapes[1:]), strict=False):
        assert set(earlier) <= set(later)
        assert all(later[key] >= before for key, before in earlier.items())
    for samples in scrapes:
        for (name, labels), count in samples.items():
            if name.endswith("_count"):
                last = (f"{name.removesuffix('_count')}_bucket", labels | {("le", "+Inf")})
                assert samples[last] == count


def test_all_of_vllms_have_its_label(client) -> None:
    ask_all(client, "chain:3")
    ours = [one for name, one in families(client).items() if name.startswith("vllm:")]
    assert len(ours) > 20
    for family in ours:
        assert {one.labels["model_name"] for one in family.samples} == {"tiny"}, family.name


def test_openmetrics_if_that_is_asked_for(client) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_client_that_leaves_is_counted(client, core) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": 200, "stream": True, "ignore_eos": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert value(scrape(client), "vllm:kv_cache_usage_perc") > 0
    deadline = time.monotonic() + 10
    while core.has_work or not value(
        samples := scrape(client), "vllm:request_success_total", finished_reason="abort"
    ):
        assert time.monotonic() < deadline
    assert value(samples, "castserve_aborted_requests_total", cause="client_gone") == 1
    assert value(samples, "vllm:kv_cache_usage_perc") == 0
    assert value(samples, "vllm:e2e_request_latency_seconds_count") == 0


def test_a_request_that_fails_is_counted(client, core, monkeypatch, caplog) -> None:
    def broken(*_):
        raise RuntimeError("as the test says")

    with monkeypatch.context() as patch:
        patch.setattr(core.target, "launch", broken)
        answer = client.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 4})
    assert answer.status_code == 500
    samples = scrape(client)
    assert value(samples, "vllm:request_success_total", finished_reason="error") == 1
    assert value(samples, "castserve_errors_total", code="internal_error") == 1
    assert value(samples, "vllm:kv_cache_usage_perc") == 0
    labels = {"route": "/v1/completions", "method": "POST", "status": "500"}
    assert value(samples, "castserve_http_requests_total", **labels) == 1
    assert "the cat" not in caplog.text


def test_preemptions_and_waiting(core, client) -> None:
    """Two sequences that grow beyond a cache that holds only one of them."""
    pool = core.scheduler.pool
    taken = pool.allocate(pool.num_free - 24)
    try:
        answer = ask(client, [[1] * 30, [2] * 30], 50)
    finally:
        pool.release(taken)
    assert answer["usage"]["completion_tokens"] == 100
    samples = scrape(client)
    assert value(samples, "vllm:num_preemptions_total") == core.scheduler.num_preemptions > 0
    assert value(samples, "vllm:generation_tokens_total") == 100
    assert value(samples, "vllm:inter_token_latency_seconds_count") == 98
    assert value(samples, "vllm:prompt_tokens_total") == 60


def test_requests_of_evaluations_spoil_no_times(engine, client) -> None:
    ask(client, PROMPTS[0], 3)
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    one = replace(request("b", [1, 2, 3], params), is_background=True)

    async def read() -> None:
        async for _ in engine.generate(one):
            pass

    asyncio.run(read())
    samples = scrape(client)
    assert value(samples, "castserve_background_tokens_total") == 9
    assert value(samples, "vllm:generation_tokens_total") == 3
    assert value(samples, "vllm:time_to_first_token_seconds_count") == 1
    assert value(samples, "vllm:request_success_total", finished_reason="length") == 1
    assert value(samples, "castserve_engine_busy_seconds_total", work="background") > 0
