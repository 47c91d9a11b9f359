"""The chat page: HTML, style and scripts of this folder, under a policy that lets the browser load nothing else."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from serve.gateway import asgi
from serve.gateway.asgi import ApiError

FOLDER = Path(__file__).parent
START = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# Scripts and styles are files of this server; text cannot become HTML or script (trusted types). Images are never
# loaded; the icon is a data: URL.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class _File:
    content_type: str
    plain: bytes
    gzipped: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        plain = path.read_bytes()
        etag = f'"{hashlib.sha256(plain).hexdigest()[:16]}"'
        return cls(CONTENT_TYPES[path.suffix], plain, gzip.compress(plain, mtime=0), etag)


class Page:
    """The page's files, in memory."""

    def __init__(self, folder: Path = FOLDER):
        self._files = {path.name: _File.read(path) for path in folder.iterdir() if path.suffix in CONTENT_TYPES}

    async def respond(self, send: asgi.Send, path: str, headers: dict[str, str], *, head_only: bool) -> None:
        """Sends a file, gzipped where the client takes that; 304 where it has it.

        path: "/" or "/page/NAME"; ApiError (404) for any other. headers: of the request."""
        file = self._files.get(path.removeprefix("/page/") if path != "/" else START)
        if file is None:
            raise ApiError(404, f"{path}: no such file of the page", code="not_found")
        page_headers = {
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "vary": "accept-encoding",
            "etag": file.etag,
        }
        if headers.get("if-none-match") == file.etag:
            return await asgi.respond(send, 304, b"", content_type=file.content_type, headers=page_headers)
        body = file.plain
        if "gzip" in headers.get("accept-encoding", ""):
            body = file.gzipped
            page_headers["content-encoding"] = "gzip"
        await asgi.respond(send, 200, body, content_type=file.content_type, headers=page_headers, head_only=head_only)
