"""Chromium without a head, a real server with a tiny model, and a page that minds its manners."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from page.serving import Watched, application, served, tiny_engine

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def engine():
    with tiny_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def app(engine) -> Watched:
    return Watched(application(engine))


@pytest.fixture(scope="session")
def address(app) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture(scope="module")  # no longer: while it runs, nobody else can use asyncio
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser; none of {', '.join(BROWSERS)} is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `dev`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(FLAGS), chromium_sandbox=False
        )
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Iterator[Callable]:
    """Serves an application as long as the test's pages are open; returns its address."""
    with ExitStack() as servers:
        yield lambda app: servers.enter_context(served(app))


@pytest.fixture
def opened(browser, address, serve) -> Iterator[Callable]:
    """Opens a page. At the end no page may have written an error to the console, thrown one, or
    asked any host but its own."""
    faults: list[str] = []
    contexts = []

    def is_fault(text: str, allowed: tuple[str, ...]) -> bool:
        return not any(one in text for one in allowed)

    def open_page(url: str = address, allowed: tuple[str, ...] = (), **options):
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and is_fault(message.text, allowed)
                and faults.append(f"console: {message.text}")
            ),
        )
        page.on(
            "request",
            lambda request: (
                urlsplit(request.url).netloc != host and faults.append(f"left: {request.url}")
            ),
        )
        page.goto(url)
        page.wait_for_selector("#model:not(:empty), #error:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
