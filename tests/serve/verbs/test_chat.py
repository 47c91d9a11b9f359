"""`rayse chat` against a real server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from cluster.errors import ClusterError
from cluster.termination import Terminated
from pipelines.errors import UserError
from serve.client import Client, ConnectionLost
from serve.gateway import asgi
from serve.gateway.conversation import Message
from serve.verbs.chat import COUNT_TOKENS, talk, whole_reply
from serve.verbs.commands import is_ready
from tests.http_servers import in_thread
from tests.serve import breaking
from tests.serve.conftest import KEY, Served

PROMPT: list[Message] = [{"role": "user", "content": "Count"}]


def typed(*lines: str) -> Callable[[str], str]:
    """A terminal into which these lines are typed, then Ctrl-D."""
    remaining = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_conversation_continues_until_it_is_reset(served: Served) -> None:
    out = io.StringIO()
    client = Client(f"{served.server.url}/v1", KEY)
    messages = talk(client, read=typed("Hello", "", "And then?", "/help", "/quit", "never"), out=out, temperature=0,
                 max_tokens=6)  # fmt: skip
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    # A model with random weights writes control characters too; the terminal gets none.
    reply = "".join(c for c in messages[1]["content"] if c.isprintable() or c in "\n\t")
    assert reply in out.getvalue() and out.getvalue().startswith("tiny at http://")
    messages = talk(client, read=typed("Hello", "/reset", "Hi"), out=io.StringIO(), persona="Be brief.", max_tokens=6)
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]


def test_each_event_of_a_stream_says_how_many_tokens_came(served: Served) -> None:
    body = {"messages": PROMPT, "stream": True, "max_tokens": 40, "min_tokens": 40, "stream_options": COUNT_TOKENS}
    headers = {"authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{served.server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    counts = [event["usage"]["completion_tokens"] for event in events]
    # Tokens that come together share an event: of forty not all do.
    assert counts == sorted(counts) and counts[-1] == 40 and len(set(counts)) > 2


def test_a_refused_prompt_is_reported_and_left_out_of_the_conversation(served: Served) -> None:
    out = io.StringIO()
    assert talk(Client(served.server.url, KEY), read=typed("word " * 400), out=out) == []
    assert "tokens" in out.getvalue()


class Interrupted(Client):
    """A client in the middle of whose reply a signal arrives."""

    def __init__(self, signal: KeyboardInterrupt):
        super().__init__("http://127.0.0.1:9")
        self.signal = signal

    def model(self) -> str:
        return "tiny"

    def reply(self, messages: Sequence[Message], **sampling: object) -> Iterator[str]:
        yield "One"
        raise self.signal


class Escaping(Interrupted):
    """A client whose model writes terminal escapes, cut between chunks."""

    def reply(self, messages: Sequence[Message], **sampling: object) -> Iterator[str]:
        yield from ("One\x1b", "]0;title\x07\x9b2J", "\ttwo\r\n", "\u202ethree")


class Lost(Interrupted):
    """A client that loses the connection in the middle of its first replies, so many, and notes what it sends."""

    def __init__(self, num_lost: int):
        super().__init__(KeyboardInterrupt())
        self.num_lost, self.sent = num_lost, list[list[Message]]()

    def reply(self, messages: Sequence[Message], **sampling: object) -> Iterator[str]:
        self.sent.append(list(messages))
        yield f"part {len(self.sent)}, "
        if len(self.sent) <= self.num_lost:
            raise ConnectionLost("the replica ended")


@pytest.mark.parametrize("num_lost", [1, 2])
def test_a_reply_whose_connection_is_lost_goes_on_once_from_its_text(num_lost: int) -> None:
    client, out = Lost(num_lost), io.StringIO()
    messages = talk(client, read=typed("Count"), out=out)
    assert client.sent[1] == [*client.sent[0], {"role": "assistant", "content": "part 1, "}] and len(client.sent) == 2
    assert "> part 1, part 2, \n" in out.getvalue()
    whole: list[Message] = [*client.sent[0], {"role": "assistant", "content": "part 1, part 2, "}]
    assert messages == whole, "what came of it stays, whether it is complete or not"
    assert ("the replica ended" in out.getvalue()) == (num_lost == 2)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 12}])
@pytest.mark.parametrize("fault", breaking.LOST)
@pytest.mark.parametrize("num_words", [1, 3, 6, 8])
def test_a_stream_that_breaks_off_gives_the_same_reply(
    num_words: int, fault: str, limit: dict[str, int], counts: bool
) -> None:
    with breaking.serve(0, "", counts=counts) as server:
        undisturbed = "".join(Client(server.url).reply(PROMPT, **limit))
    with breaking.serve(num_words, fault, counts=counts) as server:
        assert "".join(whole_reply(Client(server.url), PROMPT, **limit)) == undisturbed
    is_limited = bool(limit) and counts  # six words
    assert undisturbed == (" ".join(breaking.WORDS[:6]) if is_limited else breaking.TEXT)
    assert len(server.requests) == (1 if is_limited and num_words >= 6 else 2), "at its limit it is complete"
    if limit and len(server.requests) == 2:
        size = breaking.TOKENS_OF_WORD if counts else 1
        assert server.requests[1]["max_tokens"] == 12 - size * num_words


def test_a_server_that_is_not_vllms_gets_fields_of_openai_alone() -> None:
    out = io.StringIO()
    with breaking.serve(0, "", counts=False) as server:
        talk(Client(server.url), read=typed("Count"), out=out, max_tokens=3, temperature=0)
    assert "counting > One, two, three,\n" in out.getvalue()


@pytest.mark.parametrize("fault", breaking.LOST)
def test_a_finished_reply_is_not_asked_for_again(fault: str) -> None:
    with breaking.serve(len(breaking.WORDS) + 1, fault) as server:
        assert "".join(whole_reply(Client(server.url), PROMPT)) == breaking.TEXT
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [("not JSON", "an event that is not OpenAI's"), ("not a chunk", "an event that is not OpenAI's"),
     ("silence", "sent no more of a reply for 3 s")],
)  # fmt: skip
def test_a_silent_server_or_one_with_other_events_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    if fault == "silence":
        monkeypatch.setattr("serve.client.TIMEOUT_S", 3.0)  # enough for the words before it on a busy machine
    with breaking.serve(3, fault) as server:
        chunks = whole_reply(Client(server.url), PROMPT)
        assert "".join(next(chunks) for _ in range(3)) == "One, two, three,"
        with pytest.raises(ClusterError, match=message):
            next(chunks)
    assert len(server.requests) == 1


def test_a_refused_second_request_leaves_the_text_so_far() -> None:
    out = io.StringIO()
    with breaking.serve(3, "in a chunk", refusal="messages: 300 tokens") as server:
        messages = talk(Client(server.url), read=typed("Count"), out=out)
    assert "> One, two, three,\n(" in out.getvalue() and "messages: 300 tokens)" in out.getvalue()
    assert messages == [*PROMPT, {"role": "assistant", "content": "One, two, three,"}]


def test_terminal_escapes_of_a_reply_are_not_printed() -> None:
    out = io.StringIO()
    messages = talk(Escaping(KeyboardInterrupt()), read=typed("Count"), out=out)
    assert "One]0;title2J\ttwo\nthree\n" in out.getvalue() and "\x1b" not in out.getvalue()
    assert messages[1]["content"] == "One\x1b]0;title\x07\x9b2J\ttwo\r\n\u202ethree", "the conversation is as it was"


def test_ctrl_c_stops_a_reply_and_sigterm_ends_the_conversation() -> None:
    out = io.StringIO()
    messages = talk(Interrupted(KeyboardInterrupt()), read=typed("Count"), out=out)
    assert messages[1:] == [{"role": "assistant", "content": "One"}] and "One (stopped)" in out.getvalue()
    with pytest.raises(Terminated):
        talk(Interrupted(Terminated()), read=typed("Count"), out=out)


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), Terminated()])
def test_ctrl_c_and_sigterm_at_the_prompt_end_the_conversation(signal: KeyboardInterrupt) -> None:
    def read(prompt: str) -> str:
        raise signal

    client = Interrupted(KeyboardInterrupt())
    if isinstance(signal, Terminated):
        with pytest.raises(Terminated):
            talk(client, read=read, out=io.StringIO())
    else:
        assert talk(client, read=read, out=io.StringIO()) == []


class Broken(BaseHTTPRequestHandler):
    """Another program at the port: it answers every request with 200, and breaks off in the middle of a stream, or of
    one that is asked for at /clean between two events, as if it were whole."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        chunk = b'data: {"choices": [{"delta": {"content": "One"}}]}\n\n'
        end = b"0\r\n\r\n" if self.path.startswith("/clean") else b"40\r\ndata"
        self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" + end)

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs no requests."""


@pytest.fixture
def broken() -> Iterator[str]:
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Broken)) as url:
        yield url


@pytest.mark.parametrize("path", ["", "/clean"])
def test_a_connection_lost_in_the_middle_of_a_reply_is_an_error(broken: str, path: str) -> None:
    chunks = Client(broken + path).reply([{"role": "user", "content": "Count"}])
    assert next(chunks) == "One"
    with pytest.raises(ConnectionLost, match="lost in the middle of a reply"):
        next(chunks)


def test_another_program_at_the_port_is_recognised(broken: str) -> None:
    assert not is_ready(broken)
    with pytest.raises(ClusterError, match="not with OpenAI's list of models"):
        Client(broken).model()


def test_requests_to_this_machine_do_not_go_through_a_proxy(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with asgi.open_local(broken, 5) as response:
        assert response.read() == b"<html>"


def test_errors_explain_wrong_keys_and_urls(served: Served) -> None:
    with pytest.raises(UserError, match="--key-file"):
        Client(served.server.url).model()
    with pytest.raises(ClusterError, match="no server answers"):
        Client("http://127.0.0.1:9").model()
    with pytest.raises(UserError, match="expected http"):
        Client("ftp://x")
    with pytest.raises(UserError, match="expected http"):
        Client("http://127.0.0.1:port")
