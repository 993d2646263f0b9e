"""What the OpenAPI document says beyond what can be asked for."""

from __future__ import annotations

import httpx2
import pytest


@pytest.fixture(scope="module")
def document(server):
    return server.get("/openapi.json").json()


def operations(document):
    return [one for path in document["paths"].values() for one in path.values()]


def test_every_failure_is_told_in_its_one_shape(document) -> None:
    for operation in operations(document):
        told = {code: one for code, one in operation["responses"].items() if int(code) >= 400}
        assert {"400", "401", "408", "413", "500", "503"} <= set(told)
        for code, one in told.items():
            shapes = str(one["content"]["application/json"]["schema"])
            assert "ErrorBody" in shapes, (operation["operationId"], code)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_operations_have_short_names_of_their_own(document) -> None:
    names = [operation["operationId"] for operation in operations(document)]
    assert len(set(names)) == len(names)
    assert {"create_chat_completion", "create_completion", "run_erank"} <= set(names)


def test_streams_are_told_beside_whole_answers(document) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize("name", ["ChatCompletionRequest", "CompletionRequest", "TokenizeRequest"])
def test_whatever_may_be_left_out_may_be_null(document, server, name) -> None:
    schema = document["components"]["schemas"][name]
    optional = set(schema["properties"]) - set(schema.get("required", ()))
    assert all({"type": "null"} in schema["properties"][field]["anyOf"] for field in optional)
    path, needed = {
        "ChatCompletionRequest": (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
        ),
        "CompletionRequest": ("/v1/completions", {"prompt": "a", "max_tokens": 2}),
        "TokenizeRequest": ("/tokenize", {"prompt": "a"}),
    }[name]
    answer = httpx2.post(server.url + path, json=dict.fromkeys(optional) | needed, timeout=20)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/evaluations", "GET, POST"),
        ("/v1/evaluations/x", "DELETE, GET"),
        ("/v1/completions", "POST"),
    ],
)
def test_a_405_names_all_methods_that_the_path_takes(server, path, allowed) -> None:
    answer = httpx2.request("PATCH", server.url + path, timeout=20)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
