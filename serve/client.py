"""A client of a server that speaks OpenAI's API, over the standard library's HTTP."""

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
LOST = (OSError, http.client.HTTPException, ValueError)  # what reading an answer raises; bytes that are no JSON too


class Client:
    """A server that speaks OpenAI's API. url: http://host:port, with or without /v1."""

    def __init__(self, url: str, key: str | None = None):
        found = urlsplit(url if "://" in url else f"http://{url}")
        if found.scheme not in ("http", "https") or not found.hostname:
            raise UserError(f"--url {url}: expected http://HOST:PORT")
        self._make = http.client.HTTPSConnection if found.scheme == "https" else http.client.HTTPConnection
        try:
            self._place, self._port = found.hostname, found.port
        except ValueError as error:
            raise UserError(f"--url {url}: {error}; expected http://HOST:PORT") from None
        self._prefix = found.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.url = url

    def model(self) -> str:
        """What the server calls its model."""
        with_body = self._send("GET", "/v1/models", None)
        try:
            return json.loads(with_body.read())["data"][0]["id"]
        except (*LOST, KeyError, IndexError, TypeError) as error:
            raise ClusterError(f"{self.url}: answers, but not with OpenAI's list of models ({error!r})") from None

    def reply(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
        """The pieces of a reply as they come. Raises ClusterError where the server is lost on the way."""
        asked = {"messages": list(messages), "stream": True, **sampling}
        answered = self._send("POST", "/v1/chat/completions", asked)
        try:
            for raw in answered:
                line = raw.decode("utf-8").strip()
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                found = json.loads(line.removeprefix("data: "))
                if "error" in found:
                    raise ClusterError(f"{self.url}: {found['error']['message']}")
                for choice in found.get("choices", ()):
                    yield choice["delta"].get("content") or ""
        except LOST as error:
            raise ClusterError(f"{self.url}: lost in the middle of a reply ({error!r})") from None
        finally:
            answered.close()

    def _send(self, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        connection = self._make(self._place, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, self._prefix + path, json.dumps(body) if body else None, self._headers)
            answered = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"{self.url}: no server answers there ({error}); start one with `rayse serve`, or leave "
                               f"--url out and `rayse chat` starts its own") from None  # fmt: skip
        if answered.status == 200:
            return answered
        text = answered.read().decode("utf-8", "replace")
        try:
            why = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            why = text[:200]
        kind = UserError if answered.status < 500 else ClusterError
        hint = "; give it with --key-file" if answered.status == 401 else ""
        raise kind(f"{self.url}: {why}{hint}")
