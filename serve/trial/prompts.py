"""The prompts of a trial: held-out conversations, by turns from each task and language, that fit into the context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.data.dialogues import builtin_tasks, conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_calls import uses_tools
from pipelines.metrics.held_out import choose_conversations
from serve.gateway.conversation import with_persona

UNSAFE, SAFE = "unsafe", "safe"  # a Conversation's safety: must be declined; looks unsafe, and must be answered
ORDINARY = ""  # neither


def choose(folder: Path | None, *, num_ordinary: int, num_guard: int, seed: int) -> list[Conversation]:
    """Chooses held-out conversations: num_ordinary ordinary ones, num_guard unsafe ones, and num_guard that only look
    unsafe. Their prompts are what is sent.

    folder: an artifact of kind `conversations`; what it lacks is taken from the built-in tasks, held out as well."""
    rows = conversations.read(folder / conversations.HELD_OUT) if folder else []
    held_out = [row for row in rows if not (row.tools or uses_tools(row.prompt))]  # the gateway takes none
    _, built_in = builtin_tasks.make_conversations(rows=1, held_out_rows=max(num_ordinary, num_guard), seed=seed)
    chosen: list[Conversation] = []
    for safety, count in ((ORDINARY, num_ordinary), (UNSAFE, num_guard), (SAFE, num_guard)):
        candidates = _with_safety(held_out, safety) or _with_safety(built_in, safety)
        chosen += choose_conversations(candidates, max_conversations=count, seed=seed)
    return chosen


def _with_safety(candidates: Sequence[Conversation], safety: str) -> list[Conversation]:
    return [candidate for candidate in candidates if candidate.safety == safety]


def fitting(
    candidates: Sequence[Conversation], model: Path, persona: str | None, *, max_prompt_tokens: int
) -> list[Conversation]:
    """The conversations whose prompts, with the persona, the chat template takes, in at most max_prompt_tokens tokens.

    model: folder with the tokenizer and chat template."""
    prompts = Chat.open(model).prompts([with_persona(candidate.prompt, persona) for candidate in candidates])
    return [
        candidate
        for candidate, ids in zip(candidates, prompts, strict=True)
        if isinstance(ids, list) and len(ids) <= max_prompt_tokens
    ]
