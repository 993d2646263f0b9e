"""Pages of other origins may ask if they are let, and find what they need in the answers."""

from __future__ import annotations

import httpx2
import pytest
from tiny_server import tiny_server

from cast_server import cli
from cast_server.api.keys import ApiKeys

PAGE = "https://chat.example"


def preflight(server, origin: str = PAGE) -> httpx2.Response:
    wanted = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx2.options(f"{server.url}/v1/chat/completions", headers=wanted)


@pytest.fixture(scope="module")
def server():
    with tiny_server(keys=ApiKeys(None, "k"), cors_origins=f"{PAGE}, http://b.example:81") as one:
        yield one


def test_by_default_no_page_may() -> None:
    with tiny_server() as server:
        answer = server.get("/v1/models", headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert preflight(server).status_code == 405


def test_a_preflight_needs_no_key_and_allows_one(server) -> None:
    answer = preflight(server)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers


def test_other_origins_may_not(server) -> None:
    answer = preflight(server, "https://evil.example")
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
    answer = server.get("/health", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
def test_answers_and_errors_can_be_read_by_the_page(server, path) -> None:
    answer = server.get(path, headers={"Origin": "http://b.example:81"})
    assert answer.headers["access-control-allow-origin"] == "http://b.example:81"
    assert answer.headers["x-request-id"]
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_a_star_is_everybody_without_credentials() -> None:
    with tiny_server(cors_origins="*") as server:
        answer = server.get("/health", headers={"Origin": PAGE, "Cookie": "a=b"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("wrong", ["chat.example", "https://a.example/", "https://a,b", "**"])
def test_what_is_no_origin_is_refused_at_the_start(wrong, capsys) -> None:
    assert cli.main(["--cors-origins", wrong]) == 2
    assert "is no origin; one looks like https://" in capsys.readouterr().err
