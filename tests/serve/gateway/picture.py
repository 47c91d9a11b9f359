"""Screenshot of a conversation: python -m tests.serve.gateway.picture URL docs/chat.png QUESTION…"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.serve.gateway.browser import browser


def main(url: str, out: Path, questions: list[str]) -> None:
    """Sends the questions through the page, gives the last reply a thumb, and takes the screenshot."""
    with browser(width=1000, height=860) as (page, _):
        page.goto(f"{url}/")
        expect(page.locator("#dot")).to_have_class("dot ready", timeout=60_000)
        for number, question in enumerate(questions, 1):
            page.locator("#message").fill(question)
            page.keyboard.press("Enter")
            expect(page.locator(".actions")).to_have_count(number, timeout=60_000)
        page.locator("li:last-child [data-thumb=up]").click()
        expect(page.locator(".comment input")).to_be_visible()
        page.evaluate("document.getElementById('main').scrollTo(0, 1e9)")
        page.screenshot(path=out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
