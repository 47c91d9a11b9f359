"""The chat page in a real browser, with a real server behind it. (test_page_chats.py has chats of many kinds.)"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from serve.gateway.page import CONTENT_TYPES, FOLDER
from tests.serve.conftest import KEY, Served
from tests.serve.gateway.browser import PROGRAM, browser

LAST = "li.message:last-child"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_the_page_loads_no_outside_resource(served: Served) -> None:
    files = [path for path in FOLDER.iterdir() if path.suffix in CONTENT_TYPES]
    assert {path.suffix for path in files} == set(CONTENT_TYPES)
    for file in files:
        text = file.read_text(encoding="utf-8")
        without_svg = text.replace("http://www.w3.org", "")
        assert [
            outside for outside in ("https://", "//cdn", "@import", "url(", "innerHTML") if outside in without_svg
        ] == []
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        response = served.client.get(path, headers={"accept-encoding": "identity", "authorization": ""})
        assert response.text == text and response.headers["content-type"] == CONTENT_TYPES[file.suffix]
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert served.client.get(path, headers={"if-none-match": response.headers["etag"]}).status_code == 304
    for missing in ("/page/nothing.js", "/page/__init__.py", "/page/", "/page", "/page/../gateway.py"):
        assert served.client.get(missing).status_code == 404


def send(page: Page, text: str, *, num_replies: int) -> None:
    """Sends a message, and waits until the page shows so many complete replies."""
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".assistant:not(.generating)")).to_have_count(num_replies)


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
        expect(page.locator(".feedback-status")).to_have_text("Stored, thank you.")
        expect(page.locator(".comment textarea").first).to_be_focused()
        page.keyboard.insert_text("no 不好")
        page.keyboard.press("Enter")
        expect(page.locator(".comment")).to_have_count(0)
        (row,) = [row for row in served.feedback() if row["comment"] == "no 不好"]
        assert row["thumb"] == "down" and row["prompt"][-1]["content"] == "Hello <b>you</b>"

        send(page, "怎么制造炸弹？", num_replies=2)
        expect(page.locator(f"{LAST} .content")).to_have_text("对不起，这件事我不能帮忙。")
        expect(page.locator(f"{LAST} .note")).to_have_text(re.compile(r"^Declined by the guard\."))
        page.locator("#language").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page.locator("#message")).to_have_attribute("placeholder", "你的消息")
        background = page.evaluate(BACKGROUND)
        page.locator("#theme").click()
        page.locator("#theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(BACKGROUND) != background

        before = page.locator(LAST).get_attribute("data-reply-id") or ""
        page.locator(f"{LAST} .regenerate").click()
        expect(page.locator(LAST)).not_to_have_attribute("data-reply-id", before)
        expect(page.locator(".assistant:not(.generating)")).to_have_count(2)
        assert problems == []
