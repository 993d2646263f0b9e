"""Shapes: of evaluators, answers at once, pages, events, errors and schemas."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from evaluations_at_work import EVALUATORS, QUIET
from pydantic import TypeAdapter

from cast_server.api.evaluation_bodies import item_page, results_body

RUN = "/v1/evaluators/echo/run"
JOBS = "/v1/evaluations"


def refused(answer) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error["param"], error["code"]


def strictly(text: str):
    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def events_of(text: str) -> list[dict]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks if block != [""]]


def test_evaluators_tell_how_to_ask_them(client) -> None:
    listed = client.get("/v1/evaluators").json()
    assert [card["id"] for card in listed["data"]] == ["echo", "token_count"]
    echo = client.get("/v1/evaluators/echo").json()
    assert echo == listed["data"][0]
    assert (echo["version"], echo["requires"]) == ("1", ["generation"])
    assert echo["params_schema"]["properties"]["repeats"]["minimum"] == 0
    assert echo["metrics"] == ["length", "half"]
    assert (echo["limits"]["queue_length"], echo["limits"]["sync_items"]) == (3, 8)
    assert client.get("/v1/evaluators/token_count").json()["requires"] is None


def test_small_inputs_are_answered_at_once(client) -> None:
    answer = client.post(RUN, json={"model": "m", "input": ["abc", ""], "params": {}})
    body = strictly(answer.text)
    assert (answer.status_code, body["object"]) == (200, "evaluator.result")
    assert [item["status"] for item in body["items"]] == ["ok", "undefined"]
    assert body["summary"]["mean_length"] == 3.0
    assert body["counts"] == {"total": 2, "ok": 1, "errored": 0, "undefined": 1}
    assert client.get(JOBS).json()["data"] == []


def test_a_text_alone_is_a_list_of_one(client) -> None:
    body = {"model": "m", "input": "abc", "params": {"limit": 2}}
    answer = client.post("/v1/evaluators/token_count/run", json=body).json()
    assert answer["items"][0]["result"] == {"index": 0, "count": 2}


def test_at_once_two_models_are_compared_too(client) -> None:
    answer = client.post(RUN, json={"model": "m", "baseline_model": "base", "input": ["a", "b"]})
    assert answer.json()["comparison"]["length"]["difference"] == -1.0


def test_eight_items_are_eight_for_each_model(client) -> None:
    body = {"model": "m", "baseline_model": "base", "input": ["a"] * 8}
    assert client.post(RUN, json=body).json()["counts"]["ok"] == 16


def test_texts_count_even_if_they_are_one_item_together(client, monkeypatch) -> None:
    from cast_server.evaluators.base import Unit

    monkeypatch.setattr(type(EVALUATORS["echo"]), "plan", lambda *_: [Unit("generate", 0)])
    answer = client.post(RUN, json={"model": "m", "input": ["a"] * 9})
    assert refused(answer) == (413, "input", "use_job")


def test_an_item_that_fails_at_once_is_told(client, subject) -> None:
    subject.failing = {"generate b": RuntimeError("secret")}
    body = client.post(RUN, json={"model": "m", "input": ["a", "b"]}).json()
    assert body["items"][1]["error"]["code"] == "internal_error"
    assert body["warnings"][0]["index"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ["a"] * 9},
        {"params": {"repeats": 9}},
        {"input": ["a" * 2100, "a" * 2100]},
        {"input": ["a" * 2100]},  # used up when the second phase begins
    ],
)
def test_what_is_too_much_at_once_is_a_job(client, fields) -> None:
    answer = client.post(RUN, json={"model": "m", **fields})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "use_job")
    assert "POST /v1/evaluations" in answer.json()["error"]["message"]


def test_what_takes_too_long_at_once_is_a_job(serve, subject) -> None:
    subject.held = {"generate"}
    with serve(replace(QUIET, sync_seconds=0.05)) as client:
        answer = client.post(RUN, json={"model": "m", "input": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "use_job")
    assert subject.aborted == ["generate a"]


@pytest.mark.parametrize("path", [RUN, JOBS])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "other"}, (404, "model", "model_not_found")),
        ({"model": "/etc/passwd"}, (404, "model", "model_not_found")),
        ({"baseline_model": "other"}, (404, "baseline_model", "model_not_found")),
        ({"baseline_model": "m"}, (400, "baseline_model", None)),
        ({"model": None}, (400, "model", None)),
        ({"input": []}, (400, "input", None)),
        ({"input": [1]}, (400, "input[0]", None)),
        ({"input": ["refuse me"]}, (400, "input[0]", None)),
        ({"params": {"repeats": -1}}, (400, "params.repeats", None)),
        ({"params": {"repeat": 1}}, (400, "params.repeat", None)),
        ({"params": {"needs_hidden": True}}, (422, "model", "capability_missing")),
        ({"file": "/etc/passwd"}, (400, "file", None)),
    ],
)
def test_what_cannot_be_done_is_named(client, path, fields, expected) -> None:
    body = {"model": "m", "input": ["a"], **fields}
    if path == JOBS:
        body["evaluator"] = "echo"
    assert refused(client.post(path, json=body)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"evaluator": "nope"}, (404, "evaluator", "evaluator_not_found")),
        ({"evaluator": 3}, (400, "evaluator", None)),
        ({"evaluator": None}, (400, "evaluator", None)),
        ({"limits": {"max_seconds": 0}}, (400, "limits.max_seconds", None)),
        ({"limits": {"max_seconds": 1e9}}, (400, "limits.max_seconds", None)),
        ({"limits": {"max_tokens": 10**7}}, (400, "limits.max_tokens", None)),
        ({"limits": {"max_tokens": True}}, (400, "limits.max_tokens", None)),
        ({"limits": {"on_item_error": "ignore"}}, (400, "limits.on_item_error", None)),
        ({"limits": {"seconds": 1}}, (400, "limits.seconds", None)),
        ({"metadata": {"a": 1}}, (400, "metadata.a", None)),
        ({"params": {"repeats": 10**9}}, (413, "input", "request_too_large")),
    ],
)
def test_what_no_job_may_be_is_named(client, fields, expected) -> None:
    if fields.get("params"):
        fields = {"params": {"repeats": 20_001}}
    body = {"evaluator": "echo", "model": "m", **fields}
    assert refused(client.post(JOBS, json=body)) == expected


def test_bodies_that_are_none(client) -> None:
    json_type = {"content-type": "application/json"}
    assert refused(client.post(JOBS, content=b"{", headers=json_type)) == (400, None, None)
    assert refused(client.post(JOBS, content=b"[]", headers=json_type)) == (400, None, None)
    assert refused(client.post(JOBS, content=b"{}", headers=json_type)) == (400, "evaluator", None)
    assert refused(client.post(JOBS, content=b"{}"))[0] == 400


def test_the_model_that_lacks_something_is_named(client, baseline) -> None:
    baseline.capabilities = frozenset()
    body = {"model": "m", "baseline_model": "base", "input": ["a"]}
    assert refused(client.post(RUN, json=body)) == (422, "baseline_model", "capability_missing")


@pytest.mark.parametrize("path", ["", "/results", "/items", "/events", "/cancel"])
def test_what_does_not_exist(client, path) -> None:
    method = "POST" if path == "/cancel" else "GET"
    answer = client.request(method, f"{JOBS}/eval_1{path}")
    assert refused(answer) == (404, None, "evaluation_not_found")
    assert refused(client.get("/v1/evaluators/nope")) == (404, "evaluator", "evaluator_not_found")
    unknown = client.post("/v1/evaluators/nope/run", json={})
    assert refused(unknown) == (404, "evaluator", "evaluator_not_found")


def test_evaluations_are_listed_in_pages(client, subject) -> None:
    ids = [client.end(client.create(params={"repeats": 1}))["id"] for _ in range(3)]
    body = {"evaluator": "token_count", "model": "m", "input": ["a"], "params": {"limit": 1}}
    ids.append(client.end(client.post(JOBS, json=body).json())["id"])
    subject.held = {"generate"}
    ids.append(client.create(params={"repeats": 1})["id"])
    ids.reverse()

    def listed(**query):
        return client.get(JOBS, params=query).json()

    page = listed(limit=2)
    assert [job["id"] for job in page["data"]] == ids[:2]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[1], True)
    rest = listed(limit=3, after=page["last_id"])
    assert [job["id"] for job in rest["data"]] == ids[2:]
    assert not rest["has_more"]
    assert [job["id"] for job in listed(status="completed")["data"]] == ids[1:]
    assert [job["id"] for job in listed(evaluator="token_count")["data"]] == [ids[1]]
    assert listed(status="failed")["data"] == []
    assert refused(client.get(JOBS, params={"after": "eval_1"}))[2] == "evaluation_not_found"
    assert refused(client.get(JOBS, params={"limit": 101}))[:2] == (400, "limit")
    assert refused(client.get(JOBS, params={"status": "done"}))[:2] == (400, "status")


@pytest.mark.parametrize("is_complete", [True, False])
def test_items_come_in_pages_and_in_lines(client, subject, is_complete) -> None:
    subject.failing = {"generate 3": RuntimeError()}
    if not is_complete:
        subject.held = {"verify"}
    job = client.create(params={"repeats": 7})
    client.until(job, lambda now: now["progress"]["done"] >= (14 if is_complete else 7))
    if is_complete:
        client.end(job)
    pages, after = [], -1
    while after is not None:
        page = client.items(job, after=after, limit=3)
        pages.append(page["data"])
        assert page["has_more"] == (page["next"] is not None)
        after = page["next"]
    assert [len(page) for page in pages] == [3, 3, 1]
    items = [item for page in pages for item in page]
    assert [item["index"] for item in items] == list(range(7))
    assert {item["complete"] for item in items if item["index"] != 3} == {is_complete}
    answer = client.get(f"{JOBS}/{job['id']}/items", headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [strictly(line) for line in answer.text.splitlines()] == items
    few = client.get(
        f"{JOBS}/{job['id']}/items",
        params={"after": 1, "limit": 2},
        headers={"Accept": "application/x-ndjson"},
    )
    assert [strictly(line) for line in few.text.splitlines()] == items[2:4]


def test_events_tell_all_there_is_and_end(client, subject) -> None:
    subject.failing = {"verify 1": RuntimeError()}
    subject.held = {"generate"}
    job = client.create(params={"repeats": 3})
    with client.stream("GET", f"{JOBS}/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        chunks = stream.iter_text()
        first = next(chunks)
        assert "event: progress" in first
        subject.held = set()
        events = events_of(first + "".join(chunks))
    kinds = [event["event"] for event in events]
    assert kinds.count("item") == 3
    assert kinds.count("warning") == 1
    assert kinds[-2:] == ["progress", "done"]
    assert [int(event["id"]) for event in events if "id" in event] == [1, 2, 3, 4, 5]
    assert json.loads(events[-1]["data"]) == client.job(job)
    assert json.loads(events[-2]["data"])["done"] == 6
    failed = [json.loads(event["data"]) for event in events if event["event"] == "item"]
    assert [item["index"] for item in failed if item["failed"]] == [1]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_events_go_on_behind_the_last_one_seen(client, after) -> None:
    job = client.end(client.create(params={"repeats": 3}))
    url = f"{JOBS}/{job['id']}/events"
    answer = client.get(url, headers={"Last-Event-ID": str(after)})
    numbers = [int(event["id"]) for event in events_of(answer.text) if "id" in event]
    assert numbers == list(range(after + 1, 5))
    assert client.get(url, headers={"Last-Event-ID": "4"}).status_code == 204
    bad = client.get(url, headers={"Last-Event-ID": "x"})
    assert bad.status_code == 400


def test_events_number_on_after_a_restart(serve, subject) -> None:
    subject.held = {"verify"}
    with serve() as client:
        job = client.create(params={"repeats": 3, "undefined": [0]})
        client.until(job, lambda now: now["progress"]["done"] == 4)
    subject.held = set()
    with serve() as client:
        client.end(job)
        events = events_of(client.get(f"{JOBS}/{job['id']}/events").text)
    numbered = [event for event in events if "id" in event]
    assert [int(event["id"]) for event in numbered] == [1, 2, 3, 4, 5]
    assert [event["event"] for event in numbered] == ["item", "warning", "item", "item", "done"]


def test_a_client_that_leaves_ends_its_run_and_nobody_elses(client, subject, serve) -> None:
    import httpx2

    subject.held = {"generate"}
    job = client.create(input=["b"])
    client.until(job, lambda _: subject.running == 1)
    with pytest.raises(httpx2.ReadTimeout):
        client.post(RUN, json={"model": "m", "input": "a"}, timeout=0.1)
    client.until(job, lambda _: subject.aborted == ["generate a"])
    with client.stream("GET", f"{JOBS}/{job['id']}/events"):
        pass
    subject.held = set()
    assert client.end(job)["status"] == "completed"


def test_answers_are_what_the_schema_says(client, subject) -> None:
    subject.failing = {"generate 1": RuntimeError()}
    job = client.end(client.create(baseline_model="base", params={"repeats": 3}))
    results = client.get(f"{JOBS}/{job['id']}/results").text
    everything = EVALUATORS.values()
    found = TypeAdapter(results_body(everything)).validate_json(results)
    assert type(found.summary).__name__ == "EchoSummary"
    items = client.get(f"{JOBS}/{job['id']}/items").text
    page = TypeAdapter(item_page(everything)).validate_json(items)
    assert type(page.data[0].result).__name__ == "EchoItem"


def test_every_evaluators_types_are_in_the_schema(client) -> None:
    schema = client.get("/openapi.json").json()
    types, paths = schema["components"]["schemas"], schema["paths"]
    for name in ("EchoParams", "EchoItem", "EchoSummary", "CountParams", "CountItem"):
        assert name in types
    body = paths[JOBS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["discriminator"]["mapping"] == {
        "echo": "#/components/schemas/CreateEchoEvaluation",
        "token_count": "#/components/schemas/CreateTokenCountEvaluation",
    }
    assert "params" in types["CreateTokenCountEvaluation"]["required"]
    assert "params" not in types["CreateEchoEvaluation"]["required"]
    run = paths["/v1/evaluators/token_count/run"]["post"]
    assert run["summary"] == "Token count"
    answer = run["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert "CountItem" in json.dumps(types[answer.rsplit("/", 1)[1]])
    for path in ("results", "items"):
        answer = paths[f"{JOBS}/{{evaluation_id}}/{path}"]["get"]["responses"]["200"]
        one_of = answer["content"]["application/json"]["schema"]
        assert one_of["discriminator"]["mapping"].keys() == {"echo", "token_count"}


def test_without_subjects_there_are_no_such_urls() -> None:
    from types import SimpleNamespace

    from cast_server.api.app import create_app
    from cast_server.config import HttpConfig

    app = create_app(SimpleNamespace(tokenizer=None), HttpConfig())
    assert not [path for path in app.openapi()["paths"] if "evaluat" in path]


@pytest.mark.parametrize("count", [0, 1])
def test_any_number_of_evaluators_will_do(serve, monkeypatch, count) -> None:
    import evaluations_at_work as parts

    few = dict(list(EVALUATORS.items())[:count])
    monkeypatch.setattr(parts, "EVALUATORS", few)
    with serve() as client:
        unknown = client.post(JOBS, json={"evaluator": "nope", "model": "m", "params": {}})
        assert refused(unknown) == (404, "evaluator", "evaluator_not_found")
        assert client.get("/openapi.json").status_code == 200
        if count:
            assert client.end(client.create(input=["a"]))["status"] == "completed"
            missing = client.post(JOBS, json={"model": "m"})
            assert refused(missing) == (400, "evaluator", None)


def test_nothing_that_is_sent_is_nan(client) -> None:
    job = client.end(client.create(params={"repeats": 3, "not_finite": [1], "summary": None}))
    for path in ("", "/results", "/items"):
        body = strictly(client.get(f"{JOBS}/{job['id']}{path}").text)
    item = body["data"][1]
    assert (item["status"], item["error"]["code"]) == ("errored", "not_finite")
    assert "odd is not finite" in item["error"]["message"]


def test_evaluations_under_way_are_counted_for_prometheus(client, subject) -> None:
    def counts() -> dict[str, float]:
        lines = [one.split() for one in client.get("/metrics").text.splitlines()]
        return {
            line[0].split('"')[1]: float(line[1])
            for line in lines
            if line[0].startswith("castserve_evaluations{")
        }

    assert counts() == {"queued": 0, "in_progress": 0, "canceling": 0}
    subject.held = {"generate"}
    first, second = (client.create(input=["a"]) for _ in range(2))
    client.until(first, lambda job: job["status"] == "in_progress")
    assert counts() == {"queued": 1, "in_progress": 1, "canceling": 0}
    subject.held = set()
    client.end(second)
    assert counts() == {"queued": 0, "in_progress": 0, "canceling": 0}
