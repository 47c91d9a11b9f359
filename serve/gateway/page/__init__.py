"""The chat page: one file without outside resources, under a policy that forbids the browser to load any."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

from serve.gateway import asgi

FILE = Path(__file__).parent / "index.html"


class Page:
    """The page with its headers. Scripts and styles run by their hashes, so that nothing injected into it runs."""

    def __init__(self, file: Path = FILE):
        text = file.read_text(encoding="utf-8")
        self._plain = text.encode()
        self._gzipped = gzip.compress(self._plain, mtime=0)
        self._etag = f'"{hashlib.sha256(self._plain).hexdigest()[:16]}"'
        self._policy = (
            f"default-src 'none'; script-src {_hashes(text, 'script')}; style-src {_hashes(text, 'style')}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    async def respond(self, send: asgi.Send, headers: dict[str, str], *, head_only: bool) -> None:
        """Sends the page, gzipped where the client takes that; 304 where it has it. headers: of the request."""
        page_headers = {
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "vary": "accept-encoding",
            "etag": self._etag,
        }
        html = "text/html; charset=utf-8"
        if headers.get("if-none-match") == self._etag:
            return await asgi.respond(send, 304, b"", content_type=html, headers=page_headers)
        body = self._plain
        if "gzip" in headers.get("accept-encoding", ""):
            body = self._gzipped
            page_headers["content-encoding"] = "gzip"
        await asgi.respond(send, 200, body, content_type=html, headers=page_headers, head_only=head_only)


def _hashes(text: str, tag: str) -> str:
    """The hashes of all elements of a tag, as a content security policy lists them."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
