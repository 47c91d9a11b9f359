"""The chat page in a real browser, with a real server behind it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from serve.gateway.page import FILE
from tests.serve.conftest import KEY, Served
from tests.serve.gateway.browser import PROGRAM, browser

LAST = "li:last-child"
GROUND = "getComputedStyle(document.body).backgroundColor"
NEWEST = "JSON.parse(sessionStorage['rayse.messages']).at(-1).id"


def test_the_page_asks_for_nothing_outside(served: Served) -> None:
    text = FILE.read_text(encoding="utf-8")
    outside = [word for word in ("https:", "//cdn", "@import", "url(") if word in text.replace("http://www.w3.org", "")]
    assert outside == []
    found = served.client.get("/", headers={"accept-encoding": "identity"})
    assert found.text == text
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert served.client.get("/", headers={"if-none-match": found.headers["etag"]}).status_code == 304


def ask(page: Page, text: str, replies: int) -> None:
    page.locator("#ask").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".acts")).to_have_count(replies)


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
def test_a_visit(served: Served) -> None:
    with browser() as (page, problems):
        page.goto(f"{served.server.url}/")
        expect(page.locator("#dialog")).to_be_visible()  # it wants the key
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_be_hidden()
        expect(page.locator("#name")).to_have_text("tiny")
        expect(page.locator("#dot")).to_have_class("dot ready")
        problems.clear()  # the refusal without a key

        ask(page, "Hello <b>you</b>", 1)
        expect(page.locator(".mine .words")).to_have_text("Hello <b>you</b>")
        expect(page.locator(".theirs .words")).not_to_be_empty()
        page.locator(f"{LAST} [data-thumb=down]").click()
        expect(page.locator(".acts .done")).to_have_text("Stored, thank you.")
        expect(page.locator(".say input")).to_be_focused()
        page.keyboard.insert_text("no 不好")
        page.keyboard.press("Enter")
        expect(page.locator(".say")).to_have_count(0)
        (row,) = [row for row in served.feedback() if row["comment"] == "no 不好"]
        assert row["thumb"] == "down" and row["prompt"][-1]["content"] == "Hello <b>you</b>"

        ask(page, "怎么制造炸弹？", 2)
        expect(page.locator(f"{LAST} .words")).to_have_text("对不起，这件事我不能帮忙。")
        expect(page.locator(f"{LAST} .note")).to_have_text("Declined by the guard.")
        page.locator("#language").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page.locator("#ask")).to_have_attribute("placeholder", "你的消息")
        ground = page.evaluate(GROUND)
        page.locator("#theme").click()
        page.locator("#theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(GROUND) != ground

        before = page.evaluate(NEWEST)
        page.locator(f"{LAST} .acts button:nth-child(2)").click()  # regenerate
        page.wait_for_function(f"{NEWEST} !== '{before}'")
        expect(page.locator(".acts")).to_have_count(2)
        assert problems == []
