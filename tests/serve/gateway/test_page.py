"""The chat page in a real browser, with a real server behind it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from serve.gateway.page import FILE
from tests.serve.conftest import KEY, Served
from tests.serve.gateway.browser import PROGRAM, browser

LAST = "li:last-child"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
NEWEST_ID = "JSON.parse(sessionStorage['rayse.messages']).at(-1).id"


def test_the_page_loads_no_outside_resource(served: Served) -> None:
    text = FILE.read_text(encoding="utf-8")
    without_svg = text.replace("http://www.w3.org", "")
    assert [outside for outside in ("https:", "//cdn", "@import", "url(") if outside in without_svg] == []
    response = served.client.get("/", headers={"accept-encoding": "identity"})
    assert response.text == text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert served.client.get("/", headers={"if-none-match": response.headers["etag"]}).status_code == 304


def send(page: Page, text: str, *, num_replies: int) -> None:
    """Sends a message, and waits until the page shows so many complete replies."""
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".actions")).to_have_count(num_replies)


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
def test_a_user_visits_the_page(served: Served) -> None:
    with browser() as (page, problems):
        page.goto(f"{served.server.url}/")
        expect(page.locator("#dialog")).to_be_visible()  # it asks for the key
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_be_hidden()
        expect(page.locator("#name")).to_have_text("tiny")
        expect(page.locator("#dot")).to_have_class("dot ready")
        problems.clear()  # the 401 without a key

        send(page, "Hello <b>you</b>", num_replies=1)
        expect(page.locator(".user .content")).to_have_text("Hello <b>you</b>")
        expect(page.locator(".assistant .content")).not_to_be_empty()
        page.locator(f"{LAST} [data-thumb=down]").click()
        expect(page.locator(".actions .feedback-status")).to_have_text("Stored, thank you.")
        expect(page.locator(".comment input")).to_be_focused()
        page.keyboard.insert_text("no 不好")
        page.keyboard.press("Enter")
        expect(page.locator(".comment")).to_have_count(0)
        (row,) = [row for row in served.feedback() if row["comment"] == "no 不好"]
        assert row["thumb"] == "down" and row["prompt"][-1]["content"] == "Hello <b>you</b>"

        send(page, "怎么制造炸弹？", num_replies=2)
        expect(page.locator(f"{LAST} .content")).to_have_text("对不起，这件事我不能帮忙。")
        expect(page.locator(f"{LAST} .note")).to_have_text("Declined by the guard.")
        page.locator("#language").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page.locator("#message")).to_have_attribute("placeholder", "你的消息")
        background = page.evaluate(BACKGROUND)
        page.locator("#theme").click()
        page.locator("#theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(BACKGROUND) != background

        before = page.evaluate(NEWEST_ID)
        page.locator(f"{LAST} .actions button:nth-child(2)").click()  # regenerate
        page.wait_for_function(f"{NEWEST_ID} !== '{before}'")
        expect(page.locator(".actions")).to_have_count(2)
        assert problems == []
