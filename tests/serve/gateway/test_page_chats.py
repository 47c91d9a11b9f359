"""Chats in a real browser: what replies look like, and what a user does with them. The model's part is a script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore
from tests.serve import breaking
from tests.serve.gateway import scripted
from tests.serve.gateway.browser import PROGRAM, browser
from tests.tiny_models import Tiny

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

LAST = "li.message:last-child"
HOSTILE = """<img src=x onerror="document.title='run'"><script>document.title='run'</script>
[a](javascript:document.title='run') [b](data:text/html,x) ![picture](http://192.0.2.1/x.png) [d](JaVaScRiPt:1)
<iframe src="http://192.0.2.1/"></iframe> https://example.org/?a=1"""
NESTED = (
    "- a\n  - b\n    1. c\n\n      > d\n- [e](https://example.org) `*f*` **g *h* i** ~~j~~ 2 * 3 * 4 snake_case_name"
)
BIG_TABLE = "|".join(f"c{n}" for n in range(60)) + "\n" + "|".join(["-"] * 60) + "\n" + "1|2|3\n" * 900
SLOW = "tell a long story"
BEGUN = "One, two,"
REPLIES = {
    **scripted.REPLIES, "hostile": HOSTILE, "nested": NESTED, "table": BIG_TABLE, SLOW: "word " * 400, BEGUN: " three.",
    "deep": ">" * 3000 + "a\n" + "*a " * 3000 + "[" * 3000 + "`" * 3000,
}  # fmt: skip
SAVED = """async () => {
  const request = indexedDB.open("rayse");
  const database = await new Promise((resolve) => { request.onsuccess = () => resolve(request.result) });
  const all = (store) => new Promise((resolve) => {
    const rows = database.transaction(store).objectStore(store).getAll();
    rows.onsuccess = () => resolve(rows.result);
  });
  return [await all("chats"), await all("messages")];
}"""
WRITE_LONG_CHAT = """async (count) => {
  const request = indexedDB.open("rayse");
  const database = await new Promise((resolve) => { request.onsuccess = () => resolve(request.result) });
  const transaction = database.transaction(["chats", "messages"], "readwrite");
  transaction.objectStore("chats").put({ id: "0long", title: "2000 turns", changed: 0 });
  for (let n = 0; n < count; n += 1) {
    const id = "0long" + String(n).padStart(6, "0"), role = n % 2 ? "assistant" : "user";
    transaction.objectStore("messages").put({ id, chat: "0long", role, content: "turn **" + n + "**" });
  }
  await new Promise((resolve) => { transaction.oncomplete = resolve });
}"""
# Texts whose contrast with what is behind them is below 4.5, WCAG's level AA: [contrast, text]
LOW_CONTRAST = """() => {
  const options = { willReadFrequently: true }, canvas = document.createElement("canvas").getContext("2d", options);
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1) }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const weights = [0.2126, 0.7152, 0.0722];
  const luminance = (rgb) => rgb.reduce((sum, value, index) => sum + linear(value / 255) * weights[index], 0);
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement, isHidden = !element.checkVisibility({ opacityProperty: true });
    if (!node.data.trim() || isHidden || element.closest(":disabled, .visually-hidden, .skip")) continue;
    const behind = [];
    for (let each = element; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
    const colours = [behind, [...behind, getComputedStyle(element).color]].map(paint).map(luminance);
    const contrast = (Math.max(...colours) + 0.05) / (Math.min(...colours) + 0.05);
    if (contrast < 4.5) low.push([contrast, node.data.slice(0, 40)]);
  }
  return low;
}"""
UNNAMED = """() => {
  const named = "button, input, textarea, select, a, summary, [role=img], [role=region]";
  const hasName = (element) => element.textContent.trim() || element.ariaLabel || element.labels?.length;
  return [...document.querySelectorAll(named)].filter((element) => !hasName(element)).map(({ outerHTML }) => outerHTML);
}"""


@pytest.fixture(scope="module")
def feedback_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "feedback.sqlite"


@pytest.fixture(scope="module")
def visit(tiny: Tiny, feedback_file: Path) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The page, the errors that it logs, and the addresses that it requests."""
    (english, chinese), requested = scripted.REPLIES, list[str]()
    low = {"rayse_quality": {"relevance": 0.314, "safety": 1.0, "fluency": 0.5, "low": ["relevance", "fluency"]}}
    fields: dict[str, dict[str, Any]] = {english: {"rayse_citations": scripted.CITATIONS}, chinese: low}
    options: dict[str, Any] = {"delays": {SLOW: 0.05}, "fields": fields, "feedback": feedback_file}
    with scripted.serve(tiny.first, REPLIES, **options) as url, browser() as (page, problems):
        page.on("request", lambda request: requested.append(request.url))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{url}/")
        expect(page.locator("#dot")).to_have_class("dot ready")
        yield page, problems, requested
        assert problems == []
        assert [address for address in requested if not address.startswith((url, "data:"))] == []


def ask(page: Page, text: str) -> None:
    """Sends a message, and waits until its reply is complete."""
    before = page.locator(".assistant").count()
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".assistant:not(.generating)")).to_have_count(before + 1)


def new_chat(page: Page) -> None:
    page.locator("#new_chat").click()
    expect(page.locator(".message")).to_have_count(0)


def saved(page: Page) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Chats and messages as the browser keeps them."""
    chats, messages = page.evaluate(SAVED)
    return chats, messages


def test_replies_are_markdown_and_nothing_in_them_runs_or_loads(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, requested = visit
    ask(page, "hostile")
    content = page.locator(f"{LAST} .content")
    expect(content).to_contain_text("<script>document.title='run'</script>")
    assert page.evaluate("document.title") == "Rayse"
    assert content.locator("img, script, iframe").count() == 0
    links = content.locator("a").evaluate_all(
        "(links) => links.map((link) => [link.protocol, link.textContent, link.rel])"
    )
    rel = "noopener noreferrer nofollow"
    assert links == [["http:", "[image: picture]", rel], ["http:", "http://192.0.2.1/", rel],
                     ["https:", "https://example.org/?a=1", rel]]  # fmt: skip
    assert not [address for address in requested if "192.0.2.1" in address]

    ask(page, "nested")
    content = page.locator(f"{LAST} .content")
    expect(content.locator("ul > li > ul > li > ol > li blockquote")).to_have_text("d")
    assert content.locator("li").last.inner_html().startswith('<a href="https://example.org/"')
    assert content.locator("li").last.inner_text() == "e *f* g h i j 2 * 3 * 4 snake_case_name"
    assert content.locator("strong em").inner_text() == "h" and content.locator("del").inner_text() == "j"

    ask(page, "table")
    assert page.locator(f"{LAST} th").count() == 40 and page.locator(f"{LAST} tbody tr").count() == 200
    expect(page.locator(f"{LAST} .table .note")).to_have_text("+ 700 more rows; Copy has them all")
    ask(page, "deep")
    assert page.locator(f"{LAST} blockquote").count() <= 11


def test_sources_thumbs_and_corrections(visit: tuple[Page, list[str], list[str]], feedback_file: Path) -> None:
    page, _, _ = visit
    new_chat(page)
    ask(page, next(iter(scripted.REPLIES)))
    expect(page.locator("summary")).to_have_text("Sources (2): leaf, plants.md")
    page.locator("summary").click()
    sources = page.locator(".sources li")
    expect(sources).to_have_count(2)
    assert sources.nth(0).locator("a").get_attribute("href") == "https://example.org/leaf"
    assert sources.nth(1).inner_text().startswith("notes/plants.md · Plants > <i>Sugar</i> score 0.61")
    expect(sources.nth(1).locator("blockquote")).to_have_text("<b>Glucose</b> is a sugar.")

    page.locator(f"{LAST} [data-thumb=up]").click()
    expect(page.locator(".comment textarea")).to_have_count(1)  # good replies need no correction
    expect(sources.nth(0)).to_be_visible()  # they stay open
    page.locator(f"{LAST} [data-thumb=down]").click()
    expect(page.get_by_label("What would be a better reply? (optional)")).to_be_visible()
    page.get_by_label("What was good or bad? (optional)").fill("too short")
    with page.expect_request(lambda request: request.url.endswith("/feedback")) as sent:
        page.locator(".comment .primary").click()
    expect(page.locator(".feedback-status")).to_have_text("Stored, thank you.")
    body = sent.value.post_data_json or {}
    assert body["reply"] == scripted.ENGLISH and body["receipt"]
    (row,) = FeedbackStore(Sqlite(feedback_file)).rows()
    assert (row["thumb"], row["comment"], row["reply"]) == ("down", "too short", scripted.ENGLISH)


def test_chats_are_kept_renamed_and_deleted(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    new_chat(page)
    ask(page, "first question")
    ask(page, "second question")
    page.reload()
    expect(page.locator(".message")).to_have_count(4)  # the same tab goes on where it was
    edit, editor = page.locator("li.user").nth(0).get_by_role("button", name="Edit"), page.locator(".editor textarea")
    edit.press("Enter")  # by keyboard alone
    expect(editor).to_be_focused()
    editor.press("Escape")
    expect(page.locator("#message")).to_be_focused()
    expect(page.locator(".message")).to_have_count(4)
    edit.press("Enter")
    editor.fill("another")
    editor.press("Shift+Enter")
    page.keyboard.insert_text("question")
    editor.press("Enter")
    expect(page.locator(f"{LAST}:not(.generating) .content")).to_have_text(
        "You wrote: another question", use_inner_text=True
    )
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".user .content")).to_have_text("another question")
    page.locator(".regenerate").click()
    expect(page.locator(".assistant:not(.generating)")).to_have_count(1)

    num_chats = page.locator("#chats li").count()
    page.locator("#chats .current .rename").click()
    page.keyboard.insert_text("我的对话")
    page.keyboard.press("Enter")
    expect(page.locator("#chats .current .open")).to_have_text("我的对话")
    chats, messages = saved(page)
    (renamed,) = [chat for chat in chats if chat["title"] == "我的对话"]
    contents = [message["content"] for message in messages if message["chat"] == renamed["id"]]
    assert contents == ["another\nquestion", "You wrote: another\nquestion"]
    page.locator("#chats .current .remove").click()
    expect(page.locator("#chats li")).to_have_count(num_chats - 1)
    chats, messages = saved(page)
    assert renamed["id"] not in {chat["id"] for chat in chats} | {message["chat"] for message in messages}


def test_a_reply_goes_on_while_another_chat_is_open_and_can_be_stopped(
    visit: tuple[Page, list[str], list[str]],
) -> None:
    page, _, _ = visit
    new_chat(page)
    page.locator("#message").fill(SLOW)
    page.keyboard.press("Enter")
    expect(page.locator(".generating .content")).to_contain_text("word")
    new_chat(page)
    ask(page, "meanwhile")
    page.locator("#chats .open", has_text=SLOW).click()
    expect(page.locator(".generating .content")).to_contain_text("word word word word")
    page.keyboard.press("Escape")
    expect(page.locator(f"{LAST} .note")).to_have_text("Stopped.")
    expect(page.locator(f"{LAST} .regenerate")).to_be_visible()


def test_a_reply_whose_stream_breaks_off_goes_on_from_its_text(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    new_chat(page)
    chunk = {"id": "chatcmpl-lost", "choices": [{"index": 0, "delta": {"content": BEGUN}, "finish_reason": None}]}
    body = f"data: {json.dumps(chunk)}\n\n"  # all that a replica sent before it was killed
    route = "**/v1/chat/completions"
    page.route(route, lambda it: it.fulfill(body=body, content_type="text/event-stream"), times=1)
    with page.expect_response(lambda response: "completions" in response.url):
        ask(page, "Count")
    expect(page.locator(f"{LAST} .content")).to_have_text("One, two, three.")
    expect(page.locator(f"{LAST} .note")).to_have_count(0)
    with page.expect_request(lambda request: request.url.endswith("/feedback")) as sent:
        page.locator(f"{LAST} [data-thumb=up]").click()
    assert (sent.value.post_data_json or {})["reply"] == "One, two, three."
    expect(page.locator(".feedback-status")).to_have_text("Stored, thank you.")


def ask_breaking(visit: tuple[Page, list[str], list[str]], num_words: int, fault: str, refusal: str = "") -> list[Any]:
    """Asks in a new chat a server whose stream breaks off; returns the requests that it gets."""
    page, problems, _ = visit
    new_chat(page)
    route = "**/v1/chat/completions"
    with breaking.serve(num_words, fault, refusal=refusal, pause_s=0.5) as server:
        page.route(route, lambda it: it.continue_(url=f"{server.url}/v1/chat/completions"))
        try:
            ask(page, "Count")
        finally:
            page.unroute(route)
    # The browser logs lost connections and refusals itself.
    problems[:] = [problem for problem in problems if not problem.startswith("Failed to load resource: ")]
    return server.requests


@pytest.mark.parametrize("fault", breaking.LOST)
def test_a_reply_that_goes_on_keeps_to_its_limit(visit: tuple[Page, list[str], list[str]], fault: str) -> None:
    page, _, _ = visit
    first, second = ask_breaking(visit, 3, fault)
    expect(page.locator(f"{LAST} .content")).to_have_text(breaking.TEXT)
    expect(page.locator(f"{LAST} .note")).to_have_count(0)
    assert second["messages"] == [*first["messages"], {"role": "assistant", "content": "One, two, three,"}]
    assert second["max_tokens"] == first["max_tokens"] - 3 * breaking.TOKENS_OF_WORD


@pytest.mark.parametrize("fault", breaking.LOST)
def test_a_finished_reply_is_not_asked_for_again(visit: tuple[Page, list[str], list[str]], fault: str) -> None:
    page, _, _ = visit
    requests = ask_breaking(visit, len(breaking.WORDS) + 1, fault)
    expect(page.locator(f"{LAST} .content")).to_have_text(breaking.TEXT)
    expect(page.locator(f"{LAST} .note")).to_have_count(0)
    assert len(requests) == 1


@pytest.mark.parametrize("fault", ["not JSON", "not a chunk"])
def test_a_fault_in_reading_a_reply_is_no_lost_connection(visit: tuple[Page, list[str], list[str]], fault: str) -> None:
    page, _, _ = visit
    requests = ask_breaking(visit, 3, fault)
    expect(page.locator(f"{LAST} .content")).to_have_text("One, two, three,")
    expect(page.locator(f"{LAST} .note.failed")).to_contain_text("JSON" if fault == "not JSON" else "null")
    assert len(requests) == 1


def test_a_refused_second_request_leaves_the_text_so_far(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    requests = ask_breaking(visit, 3, "in a chunk", refusal="messages: 300 tokens")
    expect(page.locator(f"{LAST} .content")).to_have_text("One, two, three,")
    expect(page.locator(f"{LAST} .note.failed")).to_have_text("messages: 300 tokens")
    assert len(requests) == 2
    page.reload()
    expect(page.locator(f"{LAST} .content")).to_have_text("One, two, three,")


def test_a_chat_of_2000_turns_is_rendered_in_parts(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    page.evaluate(WRITE_LONG_CHAT, 4000)
    page.reload()
    page.locator("#chats .open", has_text="2000 turns").click()
    expect(page.locator(f"{LAST} .content")).to_have_text("turn 3999")
    expect(page.locator(".message")).to_have_count(40)
    page.locator("#earlier").click()  # each scroll up to it renders a part too
    expect(page.locator(".message .content").first).not_to_have_text("turn **3960**")
    assert page.locator(".message").count() in range(80, 4001, 40)  # how many depends on how fast the page scrolls
    with page.expect_request(lambda request: "completions" in request.url) as sent:
        ask(page, "and now?")
    assert (sent.value.post_data_json or {})["messages"][-1]["content"] == "and now?"
    expect(page.locator(f"{LAST} .note")).to_contain_text("Earlier turns were left out")


def test_keyboard_screen_reader_contrast_and_phone(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    new_chat(page)
    for question in scripted.REPLIES:
        ask(page, question)
    expect(page.locator(f"{LAST} .note")).to_have_text("Low scores of this reply: relevance 0.31, fluency 0.50")
    page.locator(f"{LAST} [data-thumb=down]").click()
    expect(page.locator(".comment")).to_be_visible()
    expect(page.locator("#announcement")).to_contain_text("静夜思")  # a reply is read out once it is complete
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert page.evaluate(LOW_CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    if axe := os.environ.get("AXE_CORE"):  # a copy of axe-core's axe.min.js
        page.evaluate(Path(axe).read_text(encoding="utf-8") + ";0")
        violations = page.evaluate("axe.run().then(({violations}) => violations)")
        assert violations == [], json.dumps(violations, indent=1)

    page.locator("body").press("Control+Home")
    page.reload()
    expect(page.locator("#message")).to_be_focused()
    page.set_viewport_size({"width": 375, "height": 720})
    expect(page.locator("#sidebar")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator("#menu").press("Enter")
    expect(page.locator("#new_chat")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_focused()
    expect(page.locator("#sidebar")).to_be_hidden()


@pytest.mark.slow  # a busy machine misses it
def test_the_first_paint_comes_within_300_ms(visit: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = visit
    page.set_viewport_size({"width": 1100, "height": 760})
    times: list[float] = []
    while not times or (min(times) > 300 and len(times) < 12):  # a busy machine gets a few more tries
        page.reload()
        page.locator("#message").wait_for()
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 1e9"))
    assert min(times) <= 300, times
