"""Hooks of schemathesis: some of the bodies that follow the schema are made to be answered.

The server says which field it does not take, and that is left out, or given a plain value if it is
needed. So answers are looked at as well, not refusals alone.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import httpx2
import schemathesis

MODEL = "tiny"
ONE_IN = {"coverage": 16}  # there are many that differ little; else every other one
SHORT = {"max_tokens": 8, "max_completion_tokens": 8, "n": 2, "best_of": 2}  # at most
NEEDED = {
    "messages": [{"role": "user", "content": "the cat"}],
    "prompt": "the cat",
    "input": "the cat",
    "tokens": [5, 6],
    "model": MODEL,
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    body = case.body
    if not isinstance(body, dict) or case.method != "POST" or case.meta.generation.mode.is_negative:
        return
    one_in = ONE_IN.get(case.meta.phase.name.value, 2)
    if zlib.crc32(repr(body).encode("utf-8", "replace")) % one_in == 0:
        url = case.operation.base_url.rstrip("/") + case.path
        case.body = _accepted(url, _short(body) if case.path.endswith("completions") else body)


def _short(body: dict[str, Any]) -> dict[str, Any]:
    asked = {"max_tokens": 8} | body
    return asked | {name: most for name, most in SHORT.items() if (asked.get(name) or 0) > most}


def _accepted(url: str, body: dict[str, Any]) -> dict[str, Any]:
    for _ in range(len(body) + len(NEEDED)):
        sent = json.dumps(body).encode()
        answer = httpx2.post(url, content=sent, headers={"content-type": "application/json"})
        refused = _refused(answer)
        if refused is None or body.get(refused) == NEEDED.get(refused, ""):
            return body
        rest = {name: value for name, value in body.items() if name != refused}
        body = rest | ({refused: NEEDED[refused]} if refused in NEEDED else {})
    return body


def _refused(answer: httpx2.Response) -> str | None:
    """The field that is wrong, without what is inside it."""
    if answer.status_code not in (400, 404, 408, 422):
        return None
    if answer.status_code == 408:
        return "timeout"
    param = answer.json()["error"]["param"]
    return None if param is None else param.partition(".")[0].partition("[")[0]
