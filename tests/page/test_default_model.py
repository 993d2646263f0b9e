"""The page in front of `cast-serve` with the default model, as newcomers have it."""

from __future__ import annotations

import pytest
from e2e.serving import serving

pytestmark = pytest.mark.slow


def test_a_newcomer_asks_watches_and_compares(opened, tmp_path) -> None:
    flags = ("--kv-cache-tokens", "4096", "--evaluations-dir", "")
    with serving(tmp_path / "log.txt", *flags) as server:
        page = opened(server.url)
        page.set_default_timeout(120_000)
        page.click("#examples button >> nth=0")
        page.wait_for_selector("#again:enabled")
        answer = page.text_content(".message.assistant .text")
        assert "Monday" in answer
        assert page.locator(".message.assistant .token:not(.from-own)").count() > 5
        assert page.locator("g.node.accepted").count() > 0  # of the step that is shown at the end
        legend = page.eval_on_selector_all("#legend li", "all => all.map(one => one.className)")
        assert legend == [f"token from-{one}" for one in ("own", "head", "text", "store")]
        page.click("#compare")
        page.wait_for_selector("#compared .same, #compared .differs")
        assert page.locator("#compared .same").count() == 1  # float32: not one token differs
        page.close()
