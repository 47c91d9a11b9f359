"""Checks before and after: what is asked, before the model sees it, and what it says, before anybody does.

    last user turn ──check──► declined? a refusal is the reply, and the model is not asked
    reply, in pieces ──Watch──► what is judged goes on, a sentence at a time; an offence ends it with a refusal

The judge is the nearest artifact of kind `guard` (pipelines.data.guard.judge: rules and a small classifier);
without one, its rules alone. A judgement takes less than a millisecond.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipelines.data.dialogues.refusals import declines
from pipelines.data.dialogues.tasks.refusal import REFUSALS
from pipelines.data.guard.judge import Guard, Verdict, plain
from pipelines.data.guard.rules import RULES, first_match
from pipelines.data.text.languages import language_of

SENTENCE_END = re.compile(r"[。！？；!?…\n]\s*|\.\s+")  # 2.5 is no end
HELD_CHARACTERS = 160  # a sentence that grows longer is judged as far as it has come, and goes on
BEFORE_CHARACTERS = 160  # of what was sent already, judged together with what follows


class Judge(Protocol):
    """What a guard can do."""

    def check(self, text: str, language: str | None = None) -> Verdict: ...

    def refusal(self, language: str) -> str: ...


class Rules:
    """The rules alone: what there is before a guard was made."""

    def check(self, text: str, language: str | None = None) -> Verdict:
        rule = first_match(RULES, plain(text))
        return Verdict(True, "", 0.0) if rule is None else Verdict(False, f"rule {rule.name}", 1.0)

    def refusal(self, language: str) -> str:
        return REFUSALS.get(language, REFUSALS["en"])[0]


class Nothing:
    """No guard at all, for those who switch it off."""

    def check(self, text: str, language: str | None = None) -> Verdict:
        return Verdict(True, "", 0.0)

    def refusal(self, language: str) -> str:
        return ""


def judge(folder: Path | None, *, on: bool = True) -> Judge:
    """The judge that settings ask for."""
    if not on:
        return Nothing()
    return Rules() if folder is None else Guard.open(folder)


def declined(guard: Judge, text: str) -> Verdict | None:
    """The verdict on what a user asks, where it must be declined."""
    verdict = guard.check(text, language_of(text))
    return None if verdict.allowed else verdict


@dataclass
class Watch:
    """One reply while it grows. `push` says how many of its characters may be seen by now.

    passed: characters that were judged; verdict: of the offence that ended it."""

    guard: Judge
    text: str = ""
    passed: int = 0
    verdict: Verdict | None = field(default=None)
    _sentence: int = 0  # where the one that grows began
    _excused: int = 0  # up to here a deed is only named, by a sentence that says no to it

    def push(self, piece: str, *, last: bool = False) -> int:
        """More of the reply; returns how many characters, from its beginning, may be sent."""
        self.text += piece
        if self.verdict is not None:
            return self.passed
        while (end := self._judged_end(last)) > self.passed:
            before = self.passed - BEFORE_CHARACTERS
            part = self.text[max(self._excused, before) : end]
            verdict = self.guard.check(part, language_of(part))
            if not verdict.allowed:
                # A model that says what it will not do does no harm; that it said no before excuses nothing.
                if not declines(self.text[max(self._sentence, before) : end]):
                    self.verdict = verdict
                    return self.passed
                self._excused = end
            self.passed = end
            if SENTENCE_END.search(self.text, self._sentence, end):
                self._sentence = end
        return self.passed

    def _judged_end(self, last: bool) -> int:
        """Where the next part ends that can be judged: a sentence, or as much as is held at most."""
        found = SENTENCE_END.search(self.text, self.passed)
        if found and found.end() - self.passed <= HELD_CHARACTERS:
            return found.end()
        if len(self.text) - self.passed >= HELD_CHARACTERS:
            return self.passed + HELD_CHARACTERS
        return len(self.text) if last else self.passed
