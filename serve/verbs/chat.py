"""`rayse chat`: a conversation in the terminal, with a server that runs, or with one of its own.

you > How do I join two lists?
demo > …            as it is written; Ctrl-C ends a reply, Ctrl-D or /quit the conversation, /reset begins anew
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from cluster.errors import ClusterError
from cluster.termination import Terminated
from pipelines.errors import UserError
from serve.client import Client
from serve.gateway.conversation import Message

HELP = "/reset begins anew, /quit or Ctrl-D ends, Ctrl-C ends a reply"


def talk(
    client: Client,
    *,
    persona: str | None = None,
    read: Callable[[str], str] = input,
    out: TextIO = sys.stdout,
    **sampling: Any,
) -> list[Message]:
    """A conversation until /quit or the end of input; returns it. A failed reply leaves its question out; one that was
    ended stays as far as it came."""
    name = client.model()
    begin: list[Message] = [{"role": "system", "content": persona}] if persona else []
    messages = list(begin)
    print(f"{name} at {client.url}. {HELP}", file=out, flush=True)
    while True:
        try:
            asked = read("you > ").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=out)
            return messages
        if asked == "/quit":
            return messages
        if asked == "/reset":
            messages = list(begin)
            print("(a new conversation)", file=out, flush=True)
        elif asked.startswith("/"):
            print(HELP, file=out, flush=True)
        elif asked:
            messages = _turn(client, messages, asked, name, out, sampling)


def _turn(
    client: Client, messages: list[Message], asked: str, name: str, out: TextIO, sampling: dict[str, Any]
) -> list[Message]:
    """The conversation after one more turn."""
    told: list[str] = []
    print(f"{name} > ", end="", file=out, flush=True)
    try:
        for piece in client.reply([*messages, {"role": "user", "content": asked}], **sampling):
            told.append(piece)
            print(piece, end="", file=out, flush=True)
        print(file=out, flush=True)
    except Terminated:
        raise
    except KeyboardInterrupt:
        print(" (ended)", file=out, flush=True)
        if not told:
            return messages
    except (ClusterError, UserError) as error:
        print(f"\n({error})", file=out, flush=True)
        return messages
    return [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": "".join(told)}]
