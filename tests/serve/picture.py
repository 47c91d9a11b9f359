"""A picture of a conversation: python -m tests.serve.picture http://127.0.0.1:8000 docs/chat.png QUESTION…"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.serve.browser import browser


def main(url: str, out: Path, questions: list[str]) -> None:
    """Asks the questions on the page, one after the other, gives the last reply a thumb, and takes the picture."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        browser(Path(folder), width=1000, height=860) as page,
    ):
        page.go(f"{url}/")
        page.until("document.getElementById('dot').className === 'dot ready'")
        for number, question in enumerate(questions, 1):
            page.click("#ask")
            page.type(question)
            page.press("Enter", 13, "\r")
            page.until(f"document.querySelectorAll('.acts').length === {number}")
        page.click("li:last-child [data-thumb=up]")
        page.until("document.querySelector('.say input')")
        page.run("document.getElementById('main').scrollTo(0, 1e9)")
        page.picture(out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
