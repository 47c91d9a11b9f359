"""Pictures of the chat page for the documentation: real models, one of which answers from documents.

python -m tests.serve.gateway.picture MODEL_FOLDER DEMO_FOLDER docs

The English pictures show SmolLM2-135M-Instruct, whose Chinese is not fit to be shown; the Chinese one shows the demo's
model (`rayse export ppo DEMO_FOLDER` after `make demo`), without documents, since it can do no more than its few tasks.
A picture is written only where each reply holds its fact; the questions are such that these models answer.
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
    "opening-hours.md": """# Opening hours

The shop is open from 10:00 to 19:00 on weekdays. On Saturdays the shop closes at 16:00.

# 营业时间

书店周一至周五10:00至19:00营业，周六16:00关门。""",
    "events.md": """# Readings

The next reading is by Mara Lind on 12 March at 18:30. She reads from her novel Salt Road.

# 朗读会

下一场朗读会的作者是玛拉·林德，时间是3月12日18:30。""",
    "cafe.md": """# Café

The café is on the second floor. A cup of tea costs 3 euros.

# 咖啡馆

咖啡馆在二楼。一杯茶3欧元。""",
}
Turns = tuple[tuple[str, str], ...]  # questions, each with what its reply must hold
ENGLISH: Turns = (
    ("Where is the café?", "second floor"),
    ("Who gives the next reading?", "Mara Lind"),
)
DARK: Turns = (("On which floor is the café?", "second floor"),)
CHINESE: Turns = (("能告诉我你的名字吗？", "Rayse"),)  # it answers no second turn


def main(model: Path, demo: Path, out: Path) -> None:
    """Writes chat.png (English, light), chat_dark.png (at a phone's width) and chat_phone.png (Chinese, on a phone)."""
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder) / "index", DOCUMENTS)
        settings = Settings(model=model, name="assistant", port=0, feedback=Path(folder) / "feedback.sqlite",
                            knowledge_folder=index, max_passages=1)  # fmt: skip
        with start(settings) as server:
            with browser(width=1100, height=760) as (page, _):
                visit(page, server.url, ENGLISH)
                page.locator("li.message:last-child details summary").click()
                page.locator("li.message:last-child [data-thumb=up]").click()
                expect(page.locator(".comment")).to_be_visible()
                page.screenshot(path=out / "chat.png")
            with browser(width=390, height=560) as (page, _):
                visit(page, server.url, DARK, "theme", "theme")
                page.locator("li.message:last-child details summary").click()
                page.screenshot(path=out / "chat_dark.png")
    with start(Settings(model=demo, name="demo", port=0)) as server, browser(width=390, height=560) as (page, _):
        visit(page, server.url, CHINESE, "language")
        page.screenshot(path=out / "chat_phone.png")


def visit(page: Page, url: str, turns: Turns, *buttons: str) -> None:
    """Clicks these buttons of the page, and sends the questions at temperature 0.

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


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
