"""The page in a real browser, in front of a real server with a tiny model."""

from __future__ import annotations

import json
import re
import time

import pytest
from page.serving import (
    KEY,
    ScriptedEngine,
    UnderPrefix,
    WithKey,
    application,
    chat_tokenizer,
    served,
)

from cast_server.engine.request import RequestOutput
from cast_server.engine.trace import StepTrace

QUESTION = "the cat and the dog and the cat and the dog and"
ANSWER = ".message.assistant:last-of-type .text"
IDLE = "#again:enabled"


def fill(page, **fields: object) -> None:
    """Settings, by their ids."""
    page.evaluate("document.querySelector('#settings').open = true")
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))


def ask(page, text: str = QUESTION, **fields: object) -> str:
    """Sends a message, and returns the answer when it is there."""
    fill(page, **{"most": 40, "temperature": 0, "seed": 5} | fields)
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.wait_for_selector(IDLE)
    return page.text_content(ANSWER)


@pytest.fixture
def bodies(opened):
    """The bodies of chat requests that pages sent, in order; `listen` to a page first."""
    seen: list[dict] = []

    def listen(page):
        def note(request):
            if request.url.endswith("/v1/chat/completions"):
                seen.append(json.loads(request.post_data))

        page.on("request", note)
        return seen

    return listen


def test_a_chat_of_two_turns_answers_and_goes_on(opened, bodies) -> None:
    page = opened()
    sent = bodies(page)
    fill(page, system="Be brief.")
    first = ask(page)
    second = ask(page, "and then")
    assert first
    assert second
    assert page.locator(".message").count() == 4
    assert not page.is_visible("#welcome")
    roles = [[message["role"] for message in body["messages"]] for body in sent]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert sent[1]["messages"][2]["content"] == first
    assert sent[0]["speculation"] == {"trace": True}
    assert (sent[0]["temperature"], sent[0]["max_tokens"], sent[0]["seed"]) == (0, 40, 5)


def test_the_tree_has_the_nodes_that_the_trace_told(opened, app) -> None:
    page = opened()
    page.select_option("#policy", "tree")
    page.fill("#size", "12")
    ask(page)
    steps = app.last_steps()
    assert page.get_attribute("#slider", "max") == str(len(steps) - 1)
    assert max(len(step["nodes"]) for step in steps) > 1
    largest = max(range(len(steps)), key=lambda number: len(steps[number]["nodes"]))
    for number in (0, 1, largest, len(steps) - 1):
        step = steps[number]
        page.evaluate(
            """number => { const slider = document.querySelector('#slider');
            slider.value = number; slider.dispatchEvent(new Event('input')); }""",
            number,
        )
        page.wait_for_selector(f'svg[aria-label="Draft tree of step {number + 1}"]')
        count = {kind: page.locator(f"g.node.{kind}").count() for kind in KINDS}
        assert count["accepted"] == len(step["accepted"])
        assert count["rejected"] == len(step["nodes"]) - len(step["accepted"])
        assert count["bonus"] == (step["bonus"] is not None)
        assert count["root"] == 1
        if step["nodes"]:
            assert f"{len(step['nodes'])} draft token" in page.text_content("#facts")
    assert page.locator("#depth rect.bar").count() > 0
    assert page.locator("#time circle").count() == len(steps) - 1
    assert page.locator("#cost path.curve").count() == 2


KINDS = ("accepted", "rejected", "bonus", "root")


def test_tokens_have_the_colour_of_their_source_and_lead_to_their_step(opened, app) -> None:
    page = opened()
    page.select_option("#policy", "tree")
    text = ask(page)
    accepted = sum(len(step["accepted"]) for step in app.last_steps())
    drafted = page.locator(f"{ANSWER} .token.from-text")
    assert drafted.count() > 0
    assert drafted.count() <= accepted  # half characters are one token's only
    assert page.locator(f"{ANSWER} .token.from-own").count() > 0
    assert text == page.evaluate(f"document.querySelector('{ANSWER}').textContent")
    step = drafted.first.get_attribute("data-step")
    drafted.first.click()
    page.wait_for_selector(f'svg[aria-label="Draft tree of step {int(step) + 1}"]')
    assert page.get_attribute("#live", "aria-pressed") == "false"


def test_the_policy_switch_goes_into_the_request(opened, bodies) -> None:
    page = opened()
    sent = bodies(page)
    offered = page.eval_on_selector_all("#policy option", "all => all.map(one => one.value)")
    assert offered[0] == ""
    assert {"off", "chain", "tree", "cast"} <= set(offered)
    page.select_option("#policy", "chain")
    page.fill("#size", "3")
    first = ask(page)
    page.click("#fresh")
    page.select_option("#policy", "off")
    assert page.is_disabled("#size")
    assert not page.is_visible("#size")
    assert ask(page) == first
    assert [body["speculation"].get("policy") for body in sent] == ["chain:3", "off"]
    assert "off" in page.text_content(".message.assistant .note")


def test_compare_finds_the_texts_identical_and_tells_both_speeds(opened, bodies) -> None:
    page = opened()
    sent = bodies(page)
    ask(page, temperature=0.7, seed="")
    page.click("#compare")
    page.wait_for_selector("#compared .same")
    # any seed will do, and some end an answer early
    assert re.search(r"identical, all \d+ tokens", page.text_content("#compared .same"))
    speeds = page.locator("#compared .speed")
    assert speeds.count() == 2
    assert all("tokens/s" in speeds.nth(i).text_content() for i in range(2))
    assert "times as fast" in page.text_content("#compared .ratio")
    first, second = sent
    assert second["speculation"]["policy"] == "off"
    assert first["seed"] == second["seed"]
    assert first | {"speculation": None} == second | {"speculation": None}


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_keeps_what_has_come_and_the_server_goes_no_further(
    opened, serve, scripted, how
) -> None:
    scripted.outputs = saying(["the cat "] * 2000, scripted.tokenizer)
    scripted.pause = 0.01
    address = serve(application(scripted))
    page = opened(address)
    page.fill("#prompt", QUESTION)
    page.press("#prompt", "Enter")
    page.wait_for_selector(f"{ANSWER} .token >> nth=5")
    assert page.text_content("#send") == "Stop"
    if how == "button":
        page.click("#send")
    else:
        page.keyboard.press("Escape")
    page.wait_for_selector(IDLE)
    assert page.text_content("#send") == "Send"
    assert page.text_content(ANSWER).startswith("the cat the cat ")
    assert "stopped" in page.text_content(".message.assistant .note")
    deadline = time.monotonic() + 5
    while not scripted.aborted and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert scripted.aborted == 1


def test_regenerate_asks_the_same_with_a_new_seed(opened, bodies) -> None:
    page = opened()
    sent = bodies(page)
    ask(page, temperature=1, seed="")
    page.click("#again")
    page.wait_for_selector(IDLE)
    assert page.locator(".message.assistant").count() == 1
    assert sent[0]["messages"] == sent[1]["messages"]
    assert sent[0]["seed"] != sent[1]["seed"]


def test_everything_can_be_done_from_the_keyboard(opened) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "prompt":
            break
        page.keyboard.press("Tab")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("more")
    assert page.input_value("#prompt") == f"{QUESTION}\nmore"
    page.keyboard.press("Enter")
    page.wait_for_selector(IDLE)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "g":
            page.keyboard.press("ArrowRight")
            assert page.locator("g.node.lit").count() >= 1
            assert page.text_content("#node").startswith("“")
    wanted = {"policy", "again", "fresh", "send", "slider", "live", "g", "compare"}
    assert wanted <= set(reached)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')]
        .filter(one => !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
        .map(one => one.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_has_to_be_scrolled_sideways(opened, width: int) -> None:
    page = opened(viewport={"width": width, "height": 740})
    page.select_option("#policy", "tree")
    page.fill("#size", "40")
    ask(page, f"{QUESTION} {'verylongword' * 30}")
    page.click("#compare")
    page.wait_for_selector("#compared .same, #compared .differs")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_from_the_paper(opened, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    ask(page)
    for where in ("body", ".note", ".hint", ".token", "#facts", ".top .model", "#send"):
        assert page.evaluate(CONTRAST, where) >= 4.5, where


# The colours' relative luminances as WCAG 2 has them; half-transparent grounds are drawn first.
CONTRAST = """where => {
  const element = document.querySelector(where);
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const grounds = [];
  for (let one = element; one; one = one.parentElement) {
    grounds.unshift(getComputedStyle(one).backgroundColor);
  }
  const light = colours => {
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map(byte => {
      const share = byte / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light(grounds), light([...grounds, getComputedStyle(element).color])];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_errors_are_told_in_plain_words_and_the_question_is_kept(opened) -> None:
    page = opened(allowed=("status of 400",))
    fill(page, most=5000)
    page.fill("#prompt", QUESTION)
    page.press("#prompt", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "maximum context length is 1024 tokens" in page.text_content("#error")
    assert page.locator(".message").count() == 0
    assert page.input_value("#prompt") == QUESTION
    assert ask(page)
    assert not page.is_visible("#error")


def test_a_server_that_is_gone_is_told_in_plain_words(opened, engine) -> None:
    with served(application(engine)) as address:
        page = opened(address, allowed=("ERR_CONNECTION_REFUSED",))
    page.fill("#prompt", QUESTION)
    page.press("#prompt", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot be reached" in page.text_content("#error")


def test_a_key_is_asked_for_where_one_is_wanted_and_stays_in_the_tab(opened, serve, engine) -> None:
    address = serve(WithKey(application(engine)))
    page = opened(address, allowed=("status of 401",))
    assert "API key" in page.text_content("#error")
    assert page.is_visible("#key")
    page.fill("#key", KEY)
    page.press("#key", "Tab")
    page.wait_for_selector("#model:not(:empty)")
    assert not page.is_visible("#error")
    assert ask(page)
    page.reload()
    page.wait_for_selector("#model:not(:empty)")
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    assert page.input_value("#key") == KEY
    stranger = opened(address, allowed=("status of 401",))
    assert stranger.input_value("#key") == ""


def test_no_key_is_asked_for_where_none_is_wanted(opened) -> None:
    page = opened()
    fill(page)
    assert not page.is_visible("#key")


def test_the_page_works_below_a_prefix(opened, serve, engine) -> None:
    address = serve(UnderPrefix(application(engine)))
    page = opened(f"{address}/llm/")
    assert ask(page)


def test_load_is_shown(opened) -> None:
    page = opened()
    page.wait_for_selector("#load dd")
    assert page.text_content("#model") == "tiny"
    names = page.eval_on_selector_all("#load dt", "all => all.map(one => one.textContent)")
    assert names == ["running", "waiting", "cache", "tokens/s"]


SPITEFUL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def scripted(engine):
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens([SPITEFUL])
    return ScriptedEngine(engine, tokenizer)


def step(tokens, **changes) -> StepTrace:
    facts = {
        "node_ids": tuple(tokens),
        "parents": tuple(range(-1, len(tokens) - 1)),
        "probabilities": (0.5,) * len(tokens),
        "sources": ("text",) * len(tokens),
        "num_left_out": 0,
        "accepted": tuple(range(len(tokens) - 1)),
        "token_ids": tuple(tokens),
        "ends_prompt": False,
        "num_sequences": 1,
        "predicted_seconds": 0.01,
        "seconds": 0.01,
        "since_arrival": 1.0,
    }
    return StepTrace(**facts | changes)


def saying(pieces, tokenizer) -> list[RequestOutput]:
    """An output with a step for each piece, whose tokens are the piece's."""
    outputs = []
    for number, text in enumerate(pieces):
        ids = tuple(tokenizer(text)["input_ids"])
        outputs.append(
            RequestOutput(
                request_id="r",
                text=text,
                new_token_ids=ids,
                steps=(step(ids, since_arrival=0.01 * number),),
                finish_reason="stop" if number == len(pieces) - 1 else None,
            )
        )
    return outputs


def test_markup_from_model_or_user_stays_text(opened, serve, scripted) -> None:
    scripted.outputs = saying(
        ["Look: ", SPITEFUL, " </div><script>alert(1)</script>"], scripted.tokenizer
    )
    address = serve(application(scripted))
    page = opened(address)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    answer = ask(page, SPITEFUL)
    assert answer == f"Look: {SPITEFUL} </div><script>alert(1)</script>"
    assert page.text_content(".message.user .text") == SPITEFUL
    page.evaluate("document.querySelector('#back').click()")
    assert page.locator("main img, main script").count() == 0


def test_the_page_keeps_up_with_a_very_fast_server(opened, serve, scripted) -> None:
    count = 3000
    scripted.outputs = saying(["the cat "] * count, scripted.tokenizer)
    address = serve(application(scripted))
    page = opened(address)
    assert ask(page) == "the cat " * count
    assert f"of {count}" in page.text_content("#place")
    kept = page.evaluate("Number(document.querySelector('#slider').min)")
    assert 1000 <= count - kept <= 1500  # the oldest steps are forgotten
    spent = page.evaluate(
        """() => new Promise(done => { const begin = performance.now();
        const end = () => done(performance.now() - begin);
        requestAnimationFrame(() => requestAnimationFrame(end)); })"""
    )
    assert spent < 1000  # nothing is left to be drawn
