"""`rayse chat` against a real server."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from cluster.errors import ClusterError
from pipelines.errors import UserError
from serve.chat import Client, talk
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


def test_wrong_keys_and_places_are_told(served: Served) -> None:
    with pytest.raises(UserError, match="--key-file"):
        Client(served.server.url).model()
    with pytest.raises(ClusterError, match="no server answers"):
        Client("http://127.0.0.1:9").model()
    with pytest.raises(UserError, match="expected http"):
        Client("ftp://x")
