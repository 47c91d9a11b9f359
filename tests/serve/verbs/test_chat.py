"""`rayse chat` against a real server."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.errors import ClusterError
from cluster.termination import Terminated
from pipelines.errors import UserError
from serve.client import Client
from serve.gateway import asgi
from serve.gateway.conversation import Message
from serve.verbs.chat import talk
from serve.verbs.commands import answers
from tests.serve.conftest import KEY, Served


def typed(*lines: str) -> Callable[[str], str]:
    """Somebody who types these, then Ctrl-D."""
    left = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_conversation_goes_on_and_begins_anew(served: Served) -> None:
    out = io.StringIO()
    client = Client(f"{served.server.url}/v1", KEY)
    found = talk(client, read=typed("Hello", "", "And then?", "/help", "/quit", "never"), out=out, temperature=0,
                 max_tokens=6)  # fmt: skip
    assert [message["role"] for message in found] == ["user", "assistant", "user", "assistant"]
    assert found[1]["content"] in out.getvalue() and out.getvalue().startswith("tiny at http://")
    again = talk(client, read=typed("Hello", "/reset", "Hi"), out=io.StringIO(), persona="Be brief.", max_tokens=6)
    assert [message["role"] for message in again] == ["system", "user", "assistant"]


def test_a_refused_question_is_told_and_left_out(served: Served) -> None:
    out = io.StringIO()
    assert talk(Client(served.server.url, KEY), read=typed("word " * 400), out=out) == []
    assert "tokens" in out.getvalue()


class Stopped(Client):
    """A server in the middle of whose reply a signal arrives."""

    def __init__(self, signal: KeyboardInterrupt):
        super().__init__("http://127.0.0.1:9")
        self.signal = signal

    def model(self) -> str:
        return "tiny"

    def reply(self, messages: Sequence[Message], **sampling: object) -> Iterator[str]:
        yield "One"
        raise self.signal


def test_ctrl_c_ends_a_reply_and_sigterm_the_conversation() -> None:
    out = io.StringIO()
    messages = talk(Stopped(KeyboardInterrupt()), read=typed("Count"), out=out)
    assert messages[1:] == [{"role": "assistant", "content": "One"}] and "One (ended)" in out.getvalue()
    with pytest.raises(Terminated):
        talk(Stopped(Terminated()), read=typed("Count"), out=out)


class Broken(BaseHTTPRequestHandler):
    """Another program at the port: answers 200 to everything, and breaks off in the middle of a stream."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        piece = b'data: {"choices": [{"delta": {"content": "One"}}]}\n\n'
        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n40\r\ndata")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def broken() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_lost_in_mid_reply_is_told(broken: str) -> None:
    found = Client(broken).reply([{"role": "user", "content": "Count"}])
    assert next(found) == "One"
    with pytest.raises(ClusterError, match="lost in the middle of a reply"):
        next(found)


def test_another_program_at_the_port_is_no_server_of_ours(broken: str) -> None:
    assert not answers(broken)
    with pytest.raises(ClusterError, match="not with OpenAI's list of models"):
        Client(broken).model()


def test_a_proxy_is_not_asked_for_this_machine(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with asgi.open_here(broken, 5) as found:
        assert found.read() == b"<html>"


def test_wrong_keys_and_places_are_told(served: Served) -> None:
    with pytest.raises(UserError, match="--key-file"):
        Client(served.server.url).model()
    with pytest.raises(ClusterError, match="no server answers"):
        Client("http://127.0.0.1:9").model()
    with pytest.raises(UserError, match="expected http"):
        Client("ftp://x")
    with pytest.raises(UserError, match="expected http"):
        Client("http://127.0.0.1:port")
