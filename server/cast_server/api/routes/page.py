"""/, the page to talk to the model and to watch it think, and the files that it is made of"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request, Response

from cast_server.api.failures import error_response, http_error

router = APIRouter(tags=["page"])

_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS: Final[Mapping[str, str]] = {
    # names of files carry no version, so browsers ask each time, and mostly get a 304
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, name: str, content: bytes) -> _File:
        tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        own = {"ETag": tag, "Content-Type": _TYPES[name.rpartition(".")[2]]}
        return cls(content, {**_HEADERS, **own})


def _read_all() -> Mapping[str, _File]:
    folder = files("cast_server") / "page"
    found = [one for one in folder.iterdir() if one.name.rpartition(".")[2] in _TYPES]
    return MappingProxyType({one.name: _File.read(one.name, one.read_bytes()) for one in found})


_FILES: Final = _read_all()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(http: Request) -> Response:
    """The page itself."""
    return _answer("index.html", http)


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def part(name: str, http: Request) -> Response:
    """A file that the page asks for, by an address relative to its own."""
    return _answer(name, http)


def _answer(name: str, http: Request) -> Response:
    file = _FILES.get(name)
    if file is None:
        return error_response(http_error(404, f"GET {http.url.path} is no URL of this server."))
    if file.headers["ETag"] in http.headers.get("if-none-match", ""):
        kept = {key: text for key, text in file.headers.items() if key != "Content-Type"}
        return Response(status_code=304, headers=kept)
    return Response(file.content, headers=dict(file.headers))
