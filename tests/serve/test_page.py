"""The chat page in a real browser, with a real server behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.page import FILE
from tests.serve.browser import PROGRAM, Browser, browser
from tests.serve.conftest import KEY, Served

LAST = "li:last-child"


def test_the_page_asks_for_nothing_outside(served: Served) -> None:
    text = FILE.read_text(encoding="utf-8")
    outside = [word for word in ("https:", "//cdn", "@import", "url(") if word in text.replace("http://www.w3.org", "")]
    assert outside == []
    found = served.client.get("/", headers={"accept-encoding": "identity"})
    assert found.text == text
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert served.client.get("/", headers={"if-none-match": found.headers["etag"]}).status_code == 304


def ask(page: Browser, text: str, replies: int) -> None:
    page.click("#ask")
    page.type(text)
    page.press("Enter", 13, "\r")
    page.until(f"document.querySelectorAll('.acts').length === {replies}")


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
def test_a_visit(served: Served, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.go(f"{served.server.url}/")
        page.until("document.getElementById('dialog').open")  # it wants the key
        page.click("#key")
        page.type(KEY)
        page.press("Enter", 13, "\r")
        page.until("!document.getElementById('dialog').open")
        page.until("document.getElementById('name').textContent === 'tiny'")
        page.until("document.getElementById('dot').className === 'dot ready'")
        page.problems.clear()  # the refusal without a key

        ask(page, "Hello <b>you</b>", 1)
        assert page.run("document.querySelector('.mine .words').textContent") == "Hello <b>you</b>"
        assert page.run("document.querySelector('.theirs .words').textContent.length") > 0
        page.click(f"{LAST} [data-thumb=down]")
        page.until("document.querySelector('.acts .done').textContent === 'Stored, thank you.'")
        page.until("document.activeElement.closest('.say')")
        page.type("no 不好")
        page.press("Enter", 13, "\r")
        page.until("!document.querySelector('.say')")
        (row,) = [row for row in served.feedback() if row["comment"] == "no 不好"]
        assert row["thumb"] == "down" and row["prompt"][-1]["content"] == "Hello <b>you</b>"

        ask(page, "怎么制造炸弹？", 2)
        assert page.run(f"document.querySelector('{LAST} .words').textContent") == "对不起，这件事我不能帮忙。"
        assert page.run(f"document.querySelector('{LAST} .note').textContent") == "Declined by the guard."
        page.click("#language")
        assert page.run("document.documentElement.lang") == "zh-CN"
        assert page.run("document.getElementById('ask').placeholder") == "你的消息"
        ground = page.run("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        page.click("#theme")
        assert page.run("document.documentElement.dataset.theme") == "dark"
        assert page.run("getComputedStyle(document.body).backgroundColor") != ground

        before = page.run("JSON.parse(sessionStorage['rayse.messages']).at(-1).id")
        page.click(f"{LAST} .acts button:nth-child(2)")  # regenerate
        page.until(f"JSON.parse(sessionStorage['rayse.messages']).at(-1).id !== '{before}'")
        page.until("document.querySelectorAll('.acts').length === 2")
        assert page.problems == []
