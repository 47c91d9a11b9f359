"""Client of a server with OpenAI's API, over the standard library's HTTP."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from pipelines.errors import UserError
from serve.gateway.conversation import Message

TIMEOUT_S = 300.0
# What reading a response raises when the connection breaks or the body is not what OpenAI's API sends.
READ_ERRORS = (OSError, http.client.HTTPException, ValueError)


class ConnectionLost(ClusterError):
    """The connection was lost in the middle of a reply. tokens: number of its tokens that came, as the server counts
    them, else of the chunks with text."""

    def __init__(self, message: str, tokens: int = 0):
        super().__init__(message)
        self.tokens = tokens


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
        return self._card["id"]

    @property
    def counts_tokens(self) -> bool:
        """Whether each event of a stream can say how many tokens the reply has so far: vLLM's servers and ours do where
        they are asked to, others may refuse the field that asks for it."""
        return self._card.get("owned_by") in ("rayse", "vllm")

    @cached_property
    def _card(self) -> dict[str, Any]:
        """What the server says of the first model that it serves, which has a name."""
        response = self._send("GET", "/v1/models", None)
        try:
            card = json.loads(response.read())["data"][0]
            return {"id": card["id"], "owned_by": card.get("owned_by")}
        except (*READ_ERRORS, LookupError, TypeError, AttributeError) as error:
            raise ClusterError(f"{self.url}: answers, but not with OpenAI's list of models ({error!r})") from None

    def metrics(self) -> str:
        """The server's metrics in Prometheus' text format. Raises UserError or ClusterError."""
        try:
            return self._send("GET", "/metrics", None).read().decode()
        except READ_ERRORS as error:
            raise ClusterError(f"{self.url}: lost in the middle of its metrics ({error!r})") from None

    def reply(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
        """Streams a reply, chunk by chunk. sampling: further fields of the request.

        Raises UserError where the server refuses the request, ConnectionLost where the stream breaks off before the
        reply is complete, ClusterError where the server fails otherwise, or sends nothing for TIMEOUT_S."""
        response = self._send("POST", "/v1/chat/completions", {"messages": list(messages), "stream": True, **sampling})
        tokens, is_complete = 0, False
        try:
            for event in _events(response):
                if "error" in event:
                    raise ClusterError(f"{self.url}: {event['error']['message']}")
                for choice in event.get("choices", ()):
                    text = choice["delta"].get("content") or ""
                    tokens += bool(text)
                    is_complete = is_complete or choice.get("finish_reason") is not None
                    yield text
                tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
        except (OSError, http.client.HTTPException) as error:
            if is_complete or tokens >= (sampling.get("max_tokens") or math.inf):
                return  # what was lost says nothing more
            if isinstance(error, TimeoutError):
                raise ClusterError(f"{self.url}: sent no more of a reply for {TIMEOUT_S:g} s") from None
            raise ConnectionLost(f"{self.url}: lost in the middle of a reply ({error!r})", tokens) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ClusterError(f"{self.url}: sent an event that is not OpenAI's in a reply ({error!r})") from None
        finally:
            response.close()

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


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of events, up to [DONE]. Raises OSError and HTTPException where the stream breaks
    off, ValueError for an event that is not JSON."""
    for line in response:
        if line.strip() == b"data: [DONE]":
            return
        if not line.endswith(b"\n"):  # the rest of it is lost
            break
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
    raise ConnectionResetError("it ended without [DONE]")
