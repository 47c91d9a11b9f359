"""Pictures of the chat page for the documentation: a real model that answers from documents.

python -m tests.serve.gateway.picture MODEL_FOLDER docs

A picture is written only where each reply holds its fact: the questions are those that SmolLM2-135M-Instruct answers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from serve.hosting.server import start
from serve.settings import Settings
from tests.knowledge_index import make_index
from tests.serve.gateway.browser import browser

DOCUMENTS = {
    "opening-hours.md": "# Opening hours\n\nThe shop is open from 10:00 to 19:00 on weekdays and closes at 16:00 on "
    "Saturdays.\n\n# 营业时间\n\n书店周一至周五10:00至19:00营业，周六16:00关门。",
    "returns.md": "# Returns\n\nUnread books can be returned within 30 days with the receipt.\n\n"
    "# 退货\n\n未读过的书可以在30天内凭收据退货。",
    "events.md": "# Readings\n\nThe next reading is by Mara Lind on 12 March at 18:30.\n\n"
    "# 朗读会\n\n下一场朗读会由玛拉·林德于3月12日18:30举办。",
}
Turns = tuple[tuple[str, str], ...]  # questions, each with what its reply must hold
ENGLISH: Turns = (
    ("Who gives the next reading?", "Mara Lind"),
    ("Within how many days can I return a book?", "30 days"),
)
DARK: Turns = (("When is the next reading?", "12 March"),)
CHINESE: Turns = (("下一场朗读会什么时候举办？", "3月12日"),)


def main(model: Path, out: Path) -> None:
    """Writes chat.png (English, light), chat_dark.png and chat_phone.png (Chinese, on a phone)."""
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder) / "index", DOCUMENTS)
        settings = Settings(model=model, name="assistant", port=0, feedback=Path(folder) / "feedback.sqlite",
                            knowledge_folder=index, max_passages=1)  # fmt: skip
        with start(settings) as server:
            with browser(width=1100, height=760) as (page, _):
                visit(page, server.url, ENGLISH)
                page.locator("li.message:last-child [data-thumb=up]").click()
                expect(page.locator(".comment")).to_be_visible()
                page.screenshot(path=out / "chat.png")
            with browser(width=1100, height=560) as (page, _):
                visit(page, server.url, DARK, "theme", "theme")
                page.screenshot(path=out / "chat_dark.png")
            with browser(width=390, height=760) as (page, _):
                visit(page, server.url, CHINESE, "language")
                page.screenshot(path=out / "chat_phone.png")


def visit(page: Page, url: str, turns: Turns, *buttons: str) -> None:
    """Clicks these buttons of the page, sends the questions at temperature 0, and opens the last reply's sources.

    Raises AssertionError where a reply lacks what it must hold."""
    page.goto(f"{url}/")
    page.locator("#open_settings").click()
    for name, value in (("temperature", 0), ("repetition_penalty", 1)):
        page.locator(f"#{name}").evaluate(f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')) }}")
    page.keyboard.press("Escape")
    for name in buttons:
        page.locator(f"#{name}").click()
    for number, (question, fact) in enumerate(turns):
        expect(page.locator("#dot")).to_have_class("dot ready", timeout=300_000)
        page.locator("#message").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".assistant:not(.generating)")).to_have_count(number + 1, timeout=300_000)
        expect(page.locator(".assistant .content").nth(number)).to_contain_text(fact)
    page.locator("li.message:last-child details summary").click()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
