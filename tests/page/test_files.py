"""The page's files: their headers, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

import cast_server

FOLDER = Path(cast_server.__file__).parent / "page"
FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type_and_a_strict_policy(address, name: str) -> None:
    url = address if name == "index.html" else f"{address}/page/{name}"
    answer = httpx2.get(url)
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[Path(name).suffix]
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


def test_a_browser_that_has_a_file_need_not_get_it_again(address) -> None:
    tag = httpx2.get(address).headers["etag"]
    for asked in (tag, f'W/{tag}, "other"'):
        again = httpx2.get(address, headers={"If-None-Match": asked})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == tag
    assert httpx2.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    assert httpx2.head(address).status_code == 200


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fconfig.py", "%2e%2e/config.py", "__init__.py"]
)
def test_nothing_else_is_served(address, name: str) -> None:
    answer = httpx2.get(f"{address}/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_and_make_no_markup_of_text(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert len(text.splitlines()) < 300
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//|url\(|@import""", text)
    assert not re.search(r"""(?:src|href)=["']/|fetch\(["']/""", text)  # a prefix would be lost
