"""Client of a server with OpenAI's API, over the standard library's HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from pipelines.errors import UserError
from serve.gateway.conversation import Message

TIMEOUT_S = 300.0
# What reading a response raises when the connection breaks or the body is not what OpenAI's API sends.
READ_ERRORS = (OSError, http.client.HTTPException, ValueError)


class ConnectionLost(ClusterError):
    """The connection was lost in the middle of a response."""


class Client:
    """Client of one server. url: http://HOST:PORT or https://…, with or without /v1. key: sent as a bearer token."""

    def __init__(self, url: str, key: str | None = None):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--url {url}: expected http://HOST:PORT")
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise UserError(f"--url {url}: {error}; expected http://HOST:PORT") from None
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.url = url

    def model(self) -> str:
        """Name of the model that the server serves."""
        response = self._send("GET", "/v1/models", None)
        try:
            return json.loads(response.read())["data"][0]["id"]
        except (*READ_ERRORS, KeyError, IndexError, TypeError) as error:
            raise ClusterError(f"{self.url}: answers, but not with OpenAI's list of models ({error!r})") from None

    def metrics(self) -> str:
        """The server's metrics in Prometheus' text format. Raises UserError or ClusterError."""
        try:
            return self._send("GET", "/metrics", None).read().decode()
        except READ_ERRORS as error:
            raise ClusterError(f"{self.url}: lost in the middle of its metrics ({error!r})") from None

    def reply(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
        """Streams a reply, chunk by chunk. sampling: further fields of the request.

        Raises UserError where the server refuses the request, ConnectionLost where the stream breaks off, ClusterError
        where the server fails otherwise."""
        response = self._send("POST", "/v1/chat/completions", {"messages": list(messages), "stream": True, **sampling})
        try:
            for raw in response:
                line = raw.decode("utf-8").strip()
                if line == "data: [DONE]":
                    return
                if not line.startswith("data: "):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ClusterError(f"{self.url}: {chunk['error']['message']}")
                for choice in chunk.get("choices", ()):
                    yield choice["delta"].get("content") or ""
        except READ_ERRORS as error:
            raise ConnectionLost(f"{self.url}: lost in the middle of a reply ({error!r})") from None
        finally:
            response.close()
        raise ConnectionLost(f"{self.url}: lost in the middle of a reply (it ended without [DONE])")

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        connection = self._connection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, self._prefix + path, json.dumps(body) if body else None, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"{self.url}: no server answers there ({error}); start one with `rayse serve`, or leave "
                               f"--url out, and `rayse chat` starts a server for itself") from None  # fmt: skip
        if response.status == 200:
            return response
        text = response.read().decode("utf-8", "replace")
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = text[:200]
        error_class = UserError if response.status < 500 else ClusterError
        hint = "; pass it with --key-file" if response.status == 401 else ""
        raise error_class(f"{self.url}: {message}{hint}")
