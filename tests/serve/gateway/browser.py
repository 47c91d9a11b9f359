"""A real browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect, sync_playwright

TIMEOUT_MS = 60_000  # replies are slow on a busy machine; Playwright's default is 5 s
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((path for path in map(shutil.which, PROGRAMS) if path), None)


@contextmanager
def browser(*, width: int = 1100, height: int = 760) -> Iterator[tuple[Page, list[str]]]:
    """An empty page of a headless browser, and the list of errors that it logs or throws from then on."""
    problems: list[str] = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=PROGRAM, args=flags)
        page = chromium.new_page(viewport={"width": width, "height": height}, locale="en-US")
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page, problems
        chromium.close()
