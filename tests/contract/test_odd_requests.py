"""What no schema would bring forth: broken JSON, numbers beyond all bounds, headers of any bytes.

Each is refused with a 4xx or answered, never a failure of the server's own, and in the one shape.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_server import read_all

HUGE = "9" * 5000
DEEP = "[" * 100_000 + "]" * 100_000
ODD = {
    "a number of 5000 digits": HUGE,
    "a number of 400 digits": "9" * 400,
    "a number beyond floats": "1e999",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "half a surrogate pair": r'"\ud800"',
    "a NUL": r'"a\u0000b"',
    "a deep array": DEEP,
    "a deep object": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "an empty object": "{}",
    "an array of everything": r'[null, true, 1, 1.5, "\udfff", {}, []]',
    "no JSON": "tru",
    "no UTF-8": "\udcff\udcfe",
}
FIELDS = {
    "/v1/chat/completions": ("messages", "temperature", "stop", "seed", "logit_bias", "tools"),
    "/v1/completions": ("prompt", "max_tokens", "logprobs", "top_p", "speculation"),
    "/v1/embeddings": ("input", "encoding_format"),
    "/tokenize": ("prompt", "messages"),
    "/detokenize": ("tokens",),
    "/v1/evaluations": ("input", "params", "metadata", "limits"),
    "/v1/evaluators/erank/run": ("input", "params", "model"),
}
PLAIN = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/embeddings": {"input": "a"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
    "/v1/evaluations": {"evaluator": "erank", "model": "tiny", "input": ["a cat"]},
    "/v1/evaluators/erank/run": {"model": "tiny", "input": ["a cat"]},
}
HEADERS = (
    "x-request-timeout",
    "x-request-id",
    "Idempotency-Key",
    "Last-Event-ID",
    "Accept",
    "Authorization",
    "Content-Type",
    "Cookie",
    "If-None-Match",
    "Expect",
    "traceparent",
    "Origin",
)
PATHS = ("/v1/models", "/v1/evaluations", "/v1/evaluations/x/events", "/metrics", "/", "/health")


def send(server, method: str, path: str, content: bytes = b"", header: bytes = b"") -> bytes:
    """The whole answer to a request that says whatever the caller wants."""
    kind = b"" if header.lower().startswith(b"content-type") else b"Content-Type: application/json"
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", kind, header]
    length = f"Content-Length: {len(content)}".encode()
    head = b"\r\n".join(line for line in (*lines, length) if line)
    with server.connect() as sock:
        sock.sendall(head + b"\r\n\r\n" + content)
        return read_all(sock)


def check(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status < 500, answer[:2000]
    is_json = b"content-type: application/json" in head.lower()
    if status >= 400 and is_json and body:  # HEAD has none
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("path", FIELDS)
def test_odd_values_are_refused_or_answered(server, path, odd) -> None:
    text = ODD[odd]
    check(send(server, "POST", path, text.encode("utf-8", "surrogateescape")))
    for field in FIELDS[path]:
        rest = json.dumps({k: v for k, v in PLAIN[path].items() if k != field})[1:-1]
        body = f'{{"{field}": {text}{"," if rest else ""} {rest}}}'
        check(send(server, "POST", path, body.encode("utf-8", "surrogateescape")))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(HEADERS),
    value=st.one_of(
        st.binary(max_size=40).map(lambda raw: bytes(set(raw) - set(b"\r\n\0"))),
        st.sampled_from([b"nan", b"inf", b"-1", b"0", b"1e400", HUGE.encode(), b"9" * 20, b"\xff"]),
    ),
    path=st.sampled_from([("GET", path) for path in PATHS] + [("POST", path) for path in FIELDS]),
)
def test_odd_headers_are_refused_or_ignored(server, name, value, path) -> None:
    method, url = path
    content = json.dumps(PLAIN[url]).encode() if method == "POST" else b""
    check(send(server, method, url, content, f"{name}: ".encode() + value))


@settings(max_examples=100, deadline=None)
@given(
    rest=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    path=st.sampled_from(
        ["/", "/v1/", "/v1/models/", "/v1/evaluations/", "/page/", "/v1/evaluators/"]
    ),
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "WHATEVER"]),
)
def test_odd_paths_are_not_found(server, path, rest, method) -> None:
    check(send(server, method, path + rest))
