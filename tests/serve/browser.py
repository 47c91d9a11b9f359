"""A real browser, driven through Chromium's own protocol: as much of it as the page's test needs."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. Everything that the page logs as an error is in `problems`."""

    def __init__(self, socket: ClientConnection):
        self._socket, self._number = socket, 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            found = json.loads(self._socket.recv(timeout=60))
            self._note(found)
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]

    def _note(self, found: dict[str, Any]) -> None:
        params = found.get("params", {})
        if found.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        if found.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, script: str, within_s: float = 60.0) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + within_s
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                text = self.run("document.body.innerText")
                raise TimeoutError(f"{script} was not true within {within_s:g} s: {text}")
            time.sleep(0.05)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that matches."""
        script = """(e => { e.scrollIntoView({block: 'center', behavior: 'instant'});
            const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })"""
        place = self.run(f"{script}(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder: Path, *, width: int = 1100, height: int = 760) -> Iterator[Browser]:
    """Chromium without a window, with a profile of its own in `folder`."""
    program = PROGRAM or "chromium"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={width},{height}",
             "--lang=en-US", "about:blank"]  # fmt: skip
    process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort")
        with connect(_page(port), max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(30)


def _port(file: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.is_file() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.1)
    raise TimeoutError("the browser did not start within 60 s")


def _page(port: int) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as found:
        return next(one["webSocketDebuggerUrl"] for one in json.load(found) if one["type"] == "page")
