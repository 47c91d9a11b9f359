"""The terminal loop of `rayse chat`.

you > How do I join two lists?
demo > …            streamed; Ctrl-C stops the reply, /reset starts a new conversation, Ctrl-D or /quit leaves
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from cluster.errors import ClusterError
from cluster.termination import Terminated
from pipelines.errors import UserError
from serve.client import Client, ConnectionLost
from serve.gateway.conversation import Message

# What a terminal obeys, or what turns the order of text: in a model's reply it is left out.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# vLLM's field: each event of a stream says how many tokens the reply has so far; of a broken one, no last event would.
COUNT_TOKENS = {"include_usage": True, "continuous_usage_stats": True}
HELP = "/reset starts a new conversation, /quit or Ctrl-D leaves, Ctrl-C stops a reply"


def talk(
    client: Client,
    *,
    persona: str | None = None,
    read: Callable[[str], str] = input,
    out: TextIO = sys.stdout,
    **sampling: Any,
) -> list[Message]:
    """Runs a conversation until /quit or the end of input; returns its messages.

    A reply that fails, or is stopped by Ctrl-C, stays as far as it came; a turn without any of it is left out.
    sampling: further fields of every request."""
    name = printable(client.model())
    persona_messages: list[Message] = [{"role": "system", "content": persona}] if persona else []
    messages = list(persona_messages)
    print(f"{name} at {client.url}. {HELP}", file=out, flush=True)
    while True:
        try:
            line = read("you > ").strip()
        except Terminated:  # ends the program; to catch it here would count as dropping it
            raise
        except (EOFError, KeyboardInterrupt):
            print(file=out)
            return messages
        if line == "/quit":
            return messages
        if line == "/reset":
            messages = list(persona_messages)
            print("(a new conversation)", file=out, flush=True)
        elif line.startswith("/"):
            print(HELP, file=out, flush=True)
        elif line:
            messages = _turn(client, messages, line, name, out, sampling)


def printable(text: str) -> str:
    """A text of a server without terminal escapes and other control characters; line breaks and tabs stay.

    >>> printable("\\x1b[2JHello\\r\\n")
    '[2JHello\\n'
    """
    return CONTROL.sub("", text)


def whole_reply(client: Client, prompt: Sequence[Message], **sampling: Any) -> Iterator[str]:
    """Streams a reply, as `Client.reply` does. Where the stream breaks off after some text, as when the replica that
    wrote it ends, a second request goes on from there, once, with as many tokens as max_tokens leaves."""
    if "max_tokens" in sampling and client.counts_tokens:
        sampling["stream_options"] = COUNT_TOKENS
    chunks: list[str] = []
    try:
        for chunk in client.reply(prompt, **sampling):
            chunks.append(chunk)
            yield chunk
    except ConnectionLost as lost:
        if not any(chunks):
            raise
        if "max_tokens" in sampling:
            sampling["max_tokens"] -= lost.tokens
        begun: Message = {"role": "assistant", "content": "".join(chunks)}
        yield from client.reply([*prompt, begun], **sampling)


def _turn(
    client: Client, messages: list[Message], question: str, name: str, out: TextIO, sampling: dict[str, Any]
) -> list[Message]:
    """The conversation after one more turn, whose reply is printed as it streams."""
    chunks: list[str] = []
    prompt: list[Message] = [*messages, {"role": "user", "content": question}]
    print(f"{name} > ", end="", file=out, flush=True)
    try:
        for chunk in whole_reply(client, prompt, **sampling):
            chunks.append(chunk)
            print(printable(chunk), end="", file=out, flush=True)
        print(file=out, flush=True)
    except Terminated:
        raise
    except KeyboardInterrupt:
        print(" (stopped)", file=out, flush=True)
        if not chunks:
            return messages
    except (ClusterError, UserError) as error:
        print(f"\n({printable(str(error))})", file=out, flush=True)
        if not any(chunks):
            return messages
    return [*prompt, {"role": "assistant", "content": "".join(chunks)}]
