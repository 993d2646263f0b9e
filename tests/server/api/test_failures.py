"""Every failure is OpenAI's error object, with a status that tells clients whether to retry."""

from __future__ import annotations

import logging
import socket

import openai
import pytest

from cast_server.errors import EngineOverloadedError, RequestError

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
JSON = {"content-type": "application/json"}


def error_of(answer, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a",}',
        b"[1]",
        b'"text"',
        b"null",
        b'{"prompt": "\xff"}',
        b"\x00",
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_body_that_is_no_json_object_is_refused(http, path, content) -> None:
    error = error_of(http.post(path, content=content, headers=JSON), 400)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 200


def test_place_of_a_json_mistake_is_told(http) -> None:
    error = error_of(http.post(TEXT, content=b'{"a": 1 "b"}', headers=JSON), 400)
    assert "character 8" in error["message"]


def test_missing_content_type_is_explained(http) -> None:
    answer = http.post(TEXT, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in error_of(answer, 400)["message"]


def test_messages_never_repeat_a_large_body(http) -> None:
    answer = http.post(TEXT, json={"prompt": "a", "temperature": "x" * 100_000})
    assert len(error_of(answer, 400)["message"]) < 300
    answer = http.post(TEXT, json={"prompt": "a", "seed": 10**1000})
    assert len(error_of(answer, 400)["message"]) < 300
    answer = http.post(TEXT, json={"prompt": "a", "model": "x" * 100_000})
    assert len(error_of(answer, 404)["message"]) < 1100


def test_unknown_url(http) -> None:
    error = error_of(http.get("/v1/nothing"), 404)
    assert error["message"] == "GET /v1/nothing is no URL of this server."
    assert error["code"] == "unknown_url"


def test_wrong_method(http) -> None:
    answer = http.get(CHAT)
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_unknown_model(http, path) -> None:
    body = {"model": "gpt-9", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    error = error_of(http.post(path, json=body), 404)
    assert error == {
        "message": "The model `gpt-9` does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_body_of_ten_megabytes_is_too_large(http, engine) -> None:
    answer = http.post(TEXT, json={"prompt": "x" * 10_000_000})
    assert error_of(answer, 413)["code"] == "request_too_large"
    assert engine.requests == []


def test_body_without_a_length_is_counted(http) -> None:
    chunks = (b"x" * 100_000 for _ in range(100))
    assert error_of(http.post(TEXT, content=chunks, headers=JSON), 413)


def test_body_in_chunks_is_put_together(http, engine) -> None:
    chunks = iter([b'{"prom', b'pt": "', b'ab"}'])
    assert http.post(TEXT, content=chunks, headers=JSON).status_code == 200
    assert engine.requests[0].prompt_token_ids == engine.ids("ab")


def test_client_that_asks_before_sending_too_much_is_told_no(address) -> None:
    with socket.create_connection(address[:2], timeout=10) as sock:
        head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: 10000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 413")


def test_engines_refusal_keeps_its_field(http, engine) -> None:
    engine.refusal = RequestError("Unknown policy `x`.", "speculation.policy")
    error = error_of(http.post(TEXT, json={"prompt": "a"}), 400)
    assert error["param"] == "speculation.policy"


def test_full_queue_is_503_with_a_time_to_retry(http, engine) -> None:
    engine.refusal = EngineOverloadedError("Too many requests wait already.")
    answer = http.post(TEXT, json={"prompt": "a"})
    assert error_of(answer, 503)["code"] == "engine_overloaded"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("where", ["check", "generate"])
def test_what_nobody_foresaw_is_a_500_that_leaks_nothing(http, engine, caplog, where) -> None:
    error = KeyError("secret of /root/model")
    if where == "check":
        engine.refusal = error
    else:
        engine.script = engine.failing(error)
    with caplog.at_level(logging.ERROR):
        answer = http.post(TEXT, json={"prompt": "a"})
    error = error_of(answer, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in answer.text
    assert "KeyError" not in answer.text
    assert "x-request-id" in answer.headers
    assert "secret of /root/model" in caplog.text
    assert "Traceback" in caplog.text


def test_server_survives_failures(http, engine) -> None:
    engine.refusal = KeyError("broken")
    error_of(http.post(TEXT, json={"prompt": "a"}), 500)
    engine.reset()
    assert http.post(TEXT, json={"prompt": "a"}).status_code == 200


def test_official_client_raises_its_own_exceptions(client, engine) -> None:
    ask = client.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        ask(model="org/tiny", prompt="a", temperature=-1)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(model="nobody", prompt="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="context_length_exceeded") as long:
        ask(model="org/tiny", prompt="a" * 200)
    assert long.value.code == "context_length_exceeded"
    engine.refusal = KeyError("broken")
    with pytest.raises(openai.InternalServerError):
        ask(model="org/tiny", prompt="a")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/nothing", None),
        ("POST", TEXT, {"prompt": "a"}),
        ("POST", TEXT, {"prompt": "a", "stream": True}),
        ("POST", TEXT, {"prompt": ""}),
        ("POST", TEXT, {"prompt": "x" * 10_000_000}),
    ],
)
def test_request_id_is_sent_back_or_made(http, method, path, body) -> None:
    answer = http.request(method, path, json=body, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    made = {http.request(method, path, json=body).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


def test_request_id_that_is_no_id_is_replaced(http) -> None:
    for given in ("x" * 1000, "two words"):
        answer = http.get("/health", headers={"x-request-id": given})
        assert answer.headers["x-request-id"].startswith("req-")
