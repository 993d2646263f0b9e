"""Keys: who may ask, under which name, and that no key is told to anybody."""

from __future__ import annotations

import hashlib
import logging
import os
import time

import httpx2
import openai
import pytest
from tiny_server import body, tiny_server

from cast_server import cli
from cast_server.api.keys import ApiKeys, keys_of, new_key
from cast_server.errors import ConfigError

OPEN = ["/health", "/ping", "/version"]


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n\n{line('ann', 'key-a')}{line('bob', 'key-b')}")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(line("ann", "key-a") + line("bob", "key-b") + line("bob", "key-b-2"))
    with tiny_server(keys=ApiKeys(path, "key-env"), max_requests_per_key=2) as server:
        server.keys_file = path
        yield server


def test_a_key_belongs_to_a_name(file) -> None:
    keys = ApiKeys(file, "key-env")
    assert [keys.owner(f"key-{x}") for x in ("a", "b", "env")] == ["ann", "bob", "default"]
    assert [keys.owner(key) for key in ("", "key-", "key-a ", "ann", "KEY-A")] == [None] * 5


def test_every_entry_is_compared_whatever_the_key_is(file, monkeypatch) -> None:
    from cast_server.api import keys as module

    compared = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append(len(a)) or real(a, b)
    )
    keys = ApiKeys(file)
    for key in ("key-a", "key-b", "wrong"):
        compared.clear()
        keys.owner(key)
        assert compared == [32, 32]


def test_without_keys_none_is_needed() -> None:
    assert not keys_of(None, {}).are_needed
    assert not keys_of(None, {"CASTSERVE_API_KEY": "  "}).are_needed
    assert keys_of(None, {"CASTSERVE_API_KEY": " k\n"}).owner("k") == "default"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ann:sk-cast-in-plain", "line 1: this is no name:sha256"),
        ("# x\nsk-cast-in-plain", "line 2: this is no name:sha256"),
        ("an n:" + 64 * "0", "line 1"),
        ("ann:" + 63 * "0", "line 1"),
        ("# nobody\n", "holds no key"),
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "cannot be read: it is not text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_is_told_without_what_it_holds(tmp_path, content, expected) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=expected) as error:
        ApiKeys(path)
    assert "plain" not in str(error.value)


def test_a_new_key_opens_with_its_line(tmp_path) -> None:
    key, entry = new_key("ann@example.org")
    assert key not in entry
    (tmp_path / "keys").write_text(entry)
    assert ApiKeys(tmp_path / "keys").owner(key) == "ann@example.org"
    assert new_key("ann")[0] != new_key("ann")[0]


def test_the_command_makes_a_key(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--new-api-key", "ann"])
    assert end.value.code == 0
    key, entry = capsys.readouterr().out.splitlines()[1::2]
    assert entry.strip() == line("ann", key.strip()).strip()


def test_a_file_is_read_again_when_it_changes(file, monkeypatch, caplog) -> None:
    now = time.monotonic()
    keys = ApiKeys(file)

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr(time, "monotonic", lambda: now)

    file.write_text(line("ann", "key-new"))
    later(0.5)
    assert keys.owner("key-a") == "ann"  # at most once a second
    later(1)
    assert (keys.owner("key-a"), keys.owner("key-new")) == (None, "ann")
    with caplog.at_level(logging.INFO):
        for broken in ("rubbish", None):
            file.write_text(broken) if broken else file.unlink()
            for _ in range(3):
                later(2)
                assert keys.owner("key-new") == "ann"  # what cannot be read changes nothing
    assert len([one for one in caplog.records if "stay as they were" in one.message]) == 2
    file.write_text("")
    later(2)
    assert keys.owner("key-new") is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, "No API key was given: "),
        ({"Authorization": "Basic key-a"}, "No API key was given: "),
        ({"Authorization": "Bearer"}, "No API key was given: "),
        ({"Authorization": "Bearer key-zzz"}, "The API key is not one of this server's: "),
        ({"Authorization": "Bearer key-a key-b"}, "The API key is not one of this server's: "),
    ],
)
def test_without_a_right_key_there_is_a_401(server, header, expected) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        answer = server.get(path, headers=header)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        error = answer.json()["error"]
        assert error["message"].startswith(expected)
        assert "zzz" not in answer.text
        del error["message"]
        assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}


def test_the_official_client_tells_it_apart(server) -> None:
    with server.client("wrong") as client, pytest.raises(openai.AuthenticationError) as error:
        client.models.list()
    assert error.value.code == "invalid_api_key"
    with server.client("key-b") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("path", OPEN)
def test_some_paths_are_for_everybody(server, path) -> None:
    assert server.get(path).status_code == 200
    assert server.get(f"/{path}/").status_code == 200
    assert httpx2.post(server.url + path).status_code == 401


@pytest.mark.parametrize("path", ["/", "/page/talk.js", "/favicon.ico"])
def test_the_page_is_for_everybody(server, path) -> None:
    assert server.get(path).status_code != 401
    assert server.get(f"/v1{path}").status_code == 401


@pytest.mark.parametrize("path", ["/page/../v1/models", "/page/%2e%2e/v1/models", "/page//../v1"])
def test_no_way_around_leads_past_the_keys(server, path) -> None:
    with server.connect() as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b'"tiny"' not in sock.recv(65536)


def test_preflights_need_no_key(server) -> None:
    assert httpx2.options(f"{server.url}/v1/models").status_code == 405


def test_the_owner_reaches_the_engine(server) -> None:
    for key, owner in (
        ("key-a", "ann"),
        ("key-b", "bob"),
        ("key-b-2", "bob"),
        ("key-env", "default"),
    ):
        with server.client(key) as client:
            client.completions.create(model="tiny", prompt="a", max_tokens=1)
        assert server.requests[-1].owner == owner


def test_a_key_may_have_so_many_requests_at_a_time(server) -> None:
    head = "Authorization: bearer key-b\r\n"
    server.step_seconds = 0.01
    with server.post(body(), head), server.post(body(stream=True), head):
        server.until(lambda: len(server.core.scheduler.running) == 2)
        with server.client("key-b-2") as client, pytest.raises(openai.RateLimitError) as error:
            client.completions.create(model="tiny", prompt="a", max_tokens=1)
        assert (error.value.code, error.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert error.value.response.headers["retry-after"] == "1"
        assert server.get("/v1/models", headers={"Authorization": "Bearer key-b"}).is_success
        with server.client("key-a") as client:
            client.completions.create(model="tiny", prompt="a", max_tokens=1)
    server.until(lambda: server.is_idle)
    with server.client("key-b") as client:
        client.completions.create(model="tiny", prompt="a", max_tokens=1)
    server.step_seconds = 0


def test_no_key_is_logged_or_measured(server, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        for key in ("key-a", "key-wrong"):
            for path in ("/v1/models", "/metrics", "/nowhere"):
                text = server.get(path, headers={"Authorization": f"Bearer {key}"}).text
                assert key not in text
        server.ask(prompt="", headers={"Authorization": "Bearer key-a"})
    assert "key-" not in caplog.text


def test_a_key_that_is_taken_back_is_refused_without_a_restart(server) -> None:
    ask = {"headers": {"Authorization": "Bearer key-a"}}
    assert server.get("/v1/models", **ask).status_code == 200
    before = server.keys_file.read_text()
    server.keys_file.write_text(before.partition("\n")[2])
    os.utime(server.keys_file)
    server.until(lambda: server.get("/v1/models", **ask).status_code == 401, 5)
    server.keys_file.write_text(before)
    server.until(lambda: server.get("/v1/models", **ask).status_code == 200, 5)


def test_metrics_can_be_for_everybody() -> None:
    with tiny_server(keys=ApiKeys(None, "k"), public_metrics=True) as server:
        assert server.get("/metrics").status_code == 200
        assert server.get("/v1/models").status_code == 401


def test_a_limit_a_key_needs_keys(capsys, monkeypatch) -> None:
    monkeypatch.delenv("CASTSERVE_API_KEY", raising=False)
    assert cli.main(["--max-requests-per-key", "2", "--port", "0"]) == 2
    assert "--max-requests-per-key needs keys" in capsys.readouterr().err
