"""The chat page: one file, no outside resource, and a policy that lets the browser load none."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

from serve.gateway import asgi

FILE = Path(__file__).parent / "index.html"


class Page:
    """The page as it is sent. Scripts and styles run by their hashes; nothing else that gets into it does."""

    def __init__(self, file: Path = FILE):
        text = file.read_text(encoding="utf-8")
        self._plain = text.encode()
        self._packed = gzip.compress(self._plain, mtime=0)
        self._tag = f'"{hashlib.sha256(self._plain).hexdigest()[:16]}"'
        script, style = (_hashes(text, tag) for tag in ("script", "style"))
        self._policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    async def answer(self, send: asgi.Send, headers: dict[str, str], *, head_only: bool) -> None:
        own = {
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "vary": "accept-encoding",
            "etag": self._tag,
        }
        if headers.get("if-none-match") == self._tag:
            return await asgi.answer(send, 304, b"", kind="text/html; charset=utf-8", headers=own)
        packed = "gzip" in headers.get("accept-encoding", "")
        body = self._packed if packed else self._plain
        if packed:
            own["content-encoding"] = "gzip"
        await asgi.answer(send, 200, body, kind="text/html; charset=utf-8", headers=own, head_only=head_only)


def _hashes(text: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found)
