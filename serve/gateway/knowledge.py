"""Knowledge in a conversation: passages of documents that go with the user's last question, quoted as data.

    question ──Index.search──► passages ──as_data──► before the question, as many as fit ──► Prompt, citations

Only the prompt holds them: the guard checks, feedback keeps and a receipt is of the conversation as the client sent
it. Orders to the model in a passage are taken out, and counted in its reply's citations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.data.guard.injection import as_data, neutral, without_marks
from pipelines.data.knowledge.index import Hit, Index
from pipelines.data.text.languages import language_of
from serve.gateway.conversation import Encode, Message, Prompt

QUESTION_CHARACTERS = 1000  # of the user's last message, by which passages are looked up
FORMS = {
    "en": "Answer from these passages, or say that they do not answer it.\n\n{passages}\n\nQuestion: {question}",
    "zh": "请根据以下段落回答；如果其中没有答案，请说明。\n\n{passages}\n\n问题：{question}",
}


@dataclass(frozen=True)
class Knowledge:
    """The documents of a server. max_passages: of a prompt."""

    index: Index
    max_passages: int

    @classmethod
    def open(cls, folder: Path | None, max_passages: int) -> Knowledge | None:
        """Opens a knowledge artifact's folder; None without one. Raises UserError as `Index` does."""
        return None if folder is None else cls(Index(folder), max_passages)

    def search(self, question: str) -> list[Hit]:
        """The passages that a question of the user finds, the best first."""
        return self.index.search(question[:QUESTION_CHARACTERS], self.max_passages)


def with_passages(
    prompt: Prompt,
    question: str,
    hits: Sequence[Hit],
    encode: Encode,
    *,
    max_prompt_tokens: int,
    marks: Sequence[str] = (),
) -> tuple[Prompt, list[dict[str, Any]]]:
    """(the prompt with passages in the user's last message, their citations): as many of the best passages as leave
    the prompt within max_prompt_tokens; the same prompt where there is room for none. marks: of the
    chat template, as Chat.marks has them, which no passage may write."""
    quoted = [_quoted(hit) for hit in hits]
    for count in range(len(hits), 0, -1):
        messages = _quoting(prompt.messages, question, [without_marks(passage, marks) for passage, _ in quoted[:count]])
        token_ids = encode(messages)
        if len(token_ids) <= max_prompt_tokens:
            citations = [citation for _, citation in quoted[:count]]
            return replace(prompt, messages=messages, token_ids=token_ids), citations
    return prompt, []


def _quoting(messages: Sequence[Message], question: str, quoted: Sequence[str]) -> list[Message]:
    """The messages with numbered passages before the user's last question."""
    last = max(position for position, message in enumerate(messages) if message["role"] == "user")
    passages = as_data("\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(quoted, 1)))
    content = FORMS[language_of(question)].format(passages=passages, question=question)
    return [*messages[:last], {"role": "user", "content": content}, *messages[last + 1 :]]


def _quoted(hit: Hit) -> tuple[str, dict[str, Any]]:
    """(a passage after a line with the document and headings it is from, its citation), without orders to the model.

    orders_removed in the citation: how many there were."""
    passage = hit.passage
    heading, text = passage["heading"], passage["text"]
    title = " > ".join(filter(None, (Path(passage["where"]).name, heading)))
    quoted, num_orders = neutral(f"{title}\n{text}")
    if num_orders:
        heading, text = neutral(heading)[0], neutral(text)[0]
    return quoted, {"source": passage["where"], "id": passage["id"], "heading": heading, "passage": text,
                    "score": round(hit.score, 4), "orders_removed": num_orders}  # fmt: skip
