"""What a chat template does to the rows of a stage: rows that it refuses, and system turns that are the user's for it.

Counted over a stage and told once: rows are set aside one by one, and only where none is left the stage stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipelines.data.tokens.chat import CallsRefusal, Chat, TemplateRefusal
from pipelines.data.tokens.chat_messages import Message
from pipelines.errors import UserError

Result = TypeVar("Result")


@dataclass
class TemplateRows:
    """Counts of rows by what the chat template does to them. rows: what messages call them, in the plural; area: how
    their facts begin."""

    chat: Chat
    rows: str = "conversations"
    area: str = "rows"
    total: int = 0
    refused: int = 0
    refused_calls: int = 0  # of those refused: rows with calls of tools, which the template does not write
    folded: int = 0  # rows with a system turn that is folded into the user's
    without_tools: int = 0  # rows with tools, which the template does not take
    without_text: int = 0  # rows with text beside a call, which the template leaves out
    first_refused: str = ""  # its place and the reason

    def count(self, place: str, messages: Sequence[Message], refusal: TemplateRefusal | None = None) -> None:
        """Counts a row. place: its id. refusal: why the template does not take it, if so."""
        self.total += 1
        if refusal is None:
            self.folded += self.chat.folds(messages)
            self.without_text += self.chat.leaves_out_text(messages)
        else:
            self.refused += 1
            self.refused_calls += isinstance(refusal, CallsRefusal)
            self.first_refused = self.first_refused or f"{place}: {refusal}"

    def taken(
        self, rows: Iterable[tuple[str, Sequence[Message]]], results: Iterable[Result | TemplateRefusal]
    ) -> Iterator[tuple[int, Result]]:
        """Counts rows, (place, messages) each; yields (index, result) of those that the template takes."""
        for index, ((place, messages), result) in enumerate(zip(rows, results, strict=True)):
            if isinstance(result, TemplateRefusal):
                self.count(place, messages, result)
            else:
                self.count(place, messages)
                yield index, result

    def count_tools(self, tools: Iterable[str]) -> None:
        """Counts the rows whose tools are left out. tools: of each, empty without any."""
        self.without_tools += 0 if self.chat.takes_tools else sum(map(bool, tools))

    @property
    def facts(self) -> dict[str, float | int | str]:
        """The counts that are not 0."""
        counts = {"not_used_template_refuses": self.refused - self.refused_calls, "not_used_tools": self.refused_calls,
                  "system_turns_folded": self.folded, "tools_left_out": self.without_tools,
                  "text_beside_calls_left_out": self.without_text}  # fmt: skip
        return {f"{self.area}/{name}": count for name, count in counts.items() if count}

    @property
    def notes(self) -> list[str]:
        """A sentence for each count that is not 0."""
        notes: list[str] = []
        if self.folded:
            notes.append(f"{self.folded:,} of {self.total:,} {self.rows} have a system turn, which the model's chat "
                         f"template does not take: its text is the user's, as it will be when the model is "
                         f"served")  # fmt: skip
        if self.without_tools:
            notes.append(f"{self.without_tools:,} of {self.total:,} {self.rows} have tools, which are not used: the "
                         f"model's chat template does not take any")  # fmt: skip
        if self.without_text:
            notes.append(f"{self.without_text:,} of {self.total:,} {self.rows} have text beside a call of a tool, "
                         f"which the model's chat template leaves out")  # fmt: skip
        if self.refused:
            reasons = [name for name, count in (("template_refuses", self.refused - self.refused_calls),
                                                ("tools", self.refused_calls)) if count]  # fmt: skip
            notes.append(f"{self.refused:,} of {self.total:,} {self.rows} are set aside ({', '.join(reasons)}); the "
                         f"first is {self.first_refused}")  # fmt: skip
        return notes

    def check(self, stage: str) -> None:
        """Raises UserError where there were rows, and the template took none of them."""
        if self.refused and self.refused == self.total:
            raise UserError(
                f"{stage}: {self.chat.name}: its chat template takes none of {self.total:,} {self.rows}; the first is "
                f"{self.first_refused}. Put a chat_template.jinja that takes such {self.rows} into the model's folder, "
                f"or change the rows"
            )
