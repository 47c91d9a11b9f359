"""Pictures of the chat page for the documentation, with replies of a script, not of a model.

python -m tests.serve.gateway.picture MODEL_FOLDER docs        (any model's folder: the gateway reads its tokenizer)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.serve.gateway import scripted
from tests.serve.gateway.browser import browser


def main(model: Path, out: Path) -> None:
    """Writes chat.png (desktop, English, light) and chat_phone.png (phone, Chinese, dark)."""
    english, chinese = scripted.REPLIES
    fields = {english: {"rayse_citations": scripted.CITATIONS}}
    with tempfile.TemporaryDirectory() as folder:
        feedback = Path(folder) / "feedback.sqlite"
        options = {"name": "assistant", "feedback": feedback}
        with scripted.serve(model, scripted.REPLIES, fields=fields, **options) as url:
            with browser(width=1100, height=860) as (page, _):
                page.goto(f"{url}/")
                ask(page, chinese)
                page.locator("#new_chat").click()
                ask(page, english)
                page.locator("li.message:last-child [data-thumb=up]").click()
                expect(page.locator(".comment")).to_be_visible()
                page.screenshot(path=out / "chat.png")
            with browser(width=390, height=760) as (page, _):
                page.goto(f"{url}/")
                page.locator("#language").click()
                page.locator("#theme").click()
                page.locator("#theme").click()
                ask(page, chinese)
                page.screenshot(path=out / "chat_phone.png")


def ask(page: Page, question: str) -> None:
    """Sends a question in a new chat, and waits for the complete reply."""
    expect(page.locator("#dot")).to_have_class("dot ready")
    page.locator("#message").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".assistant:not(.generating)")).to_have_count(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
