"""The guard of a conversation: a prompt is checked before the model gets it, a reply before its reader does.

    messages ──refused.py──► what the model may get ──check_prompt──► declined? a refusal is sent instead
    reply, in chunks ──GuardedReply──► checked sentences are released; an unsafe one ends the reply with a refusal

The guard is the nearest artifact of kind `guard` (rules, a small classifier and an encoder); without one, the built-in
rules alone. A check of a question takes 0.4 ms, of 156 Chinese characters, which are read with and without points,
1.5 ms; one with suspect words, which the encoder reads, 10 to 25 ms more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.dialogues.tasks.refusal import REFUSALS
from pipelines.data.guard.classifier import CONFIG_FILE, WEIGHTS_FILE, Verdict, by_rules
from pipelines.data.guard.classifier import Guard as LearntGuard
from pipelines.data.guard.encoder import FILE as ENCODER_FILE
from pipelines.data.guard.encoder import opened
from pipelines.data.guard.rules import RULES, RULES_VERSION
from pipelines.data.text.languages import language_of
from serve.gateway.conversation import Message
from serve.settings import HostedGuard, Settings

SENTENCE_END = re.compile(r"[。！？；!?…\n]\s*|\.\s+")  # the point of 2.5 ends no sentence
MAX_HELD_CHARACTERS = 160  # a sentence that grows longer is checked, and released, as far as it has come
MIN_PART_CHARACTERS = (
    48  # sentences after the first are checked together up to here: each check reads the context again
)
CONTEXT_CHARACTERS = 160  # of what was released already, checked together with what follows
# Of a stream, in UTF-8, between two calls of a guard model that judges replies: about 64 tokens of either language.
JUDGED_BYTES = 256
MAX_JOINED = 3  # messages that the classifier reads as one: more would be declined the more often, the more they are
MAX_REMEMBERED, MAX_REMEMBERED_CHARACTERS = 5000, 4000  # verdicts; characters of a text whose verdict is remembered
# Where a sentence turns from what it refuses to something else: "…, but", "…: here is how", "不过".
_OPENING = (
    r"here|there|this is|you (?:can|could|should|need|must|have)|first|step|just|simply|take|mix|let me|let's|let us|"
    r"i(?:'ll| will| can| could|'d)\b(?! not)|to (?!th)|the (?:way|steps|recipe)|explain|tell"
)
_OPENING_ZH = "你可以|您可以|可以|先|首先|第一|下面|以下|这里|方法|步骤|只要|只需|把|用|让我|我来|告诉你|需要"
CLAUSE_END = re.compile(
    r"\b(?:but|however|yet|instead|although|though|anyway|nevertheless|nonetheless|except|still|that said)\b|[;:—–\n]|"
    rf"(?:,|\band\b|\bso\b|\bbecause\b)\s*(?:and |so |then )?(?={_OPENING})|"
    rf"但|不过|然而|可是|只是|而是|却|尽管|；|：|[，,](?=(?:那么|所以|就)?(?:{_OPENING_ZH}))",
    re.IGNORECASE,
)


Judge = Callable[[str], Verdict | None]
"""The verdict of a guard model on a reply so far, where it must be declined. It may take a while."""


class Check(Protocol):
    """Decides whether a text may pass."""

    def __call__(self, text: str, language: str | None = None) -> Verdict: ...


class Guard(Protocol):
    """Decides whether a text may pass, and words the refusal of one that may not."""

    def check(self, text: str, language: str | None = None) -> Verdict: ...

    def check_reply(self, text: str, language: str | None = None) -> Verdict: ...

    def check_rules(self, text: str) -> Verdict: ...

    def refusal(self, language: str) -> str: ...


class RulesGuard:
    """The built-in rules alone, where there is no artifact of kind `guard`."""

    def check(self, text: str, language: str | None = None) -> Verdict:
        """Declines a text that matches a rule of either language."""
        return by_rules(RULES, text)

    def check_reply(self, text: str, language: str | None = None) -> Verdict:
        """The same."""
        return self.check(text, language)

    def check_rules(self, text: str) -> Verdict:
        """The same."""
        return by_rules(RULES, text)

    def refusal(self, language: str) -> str:
        """The refusal in a language, else in English."""
        return REFUSALS.get(language, REFUSALS["en"])[0]


class NoGuard:
    """Lets every text pass, at once, where the guard is switched off."""

    def check(self, text: str, language: str | None = None) -> Verdict:
        """Allows any text."""
        return Verdict(True, "", 0.0)

    def check_reply(self, text: str, language: str | None = None) -> Verdict:
        """Allows any text."""
        return Verdict(True, "", 0.0)

    def check_rules(self, text: str) -> Verdict:
        """Allows any text."""
        return Verdict(True, "", 0.0)

    def refusal(self, language: str) -> str:
        """Empty: never needed."""
        return ""


class RememberingGuard:
    """A guard that remembers its newest verdicts: a chat sends its earlier turns again with each request."""

    def __init__(self, guard: Guard):
        self.check, self.check_reply = _remembering(guard.check), _remembering(guard.check_reply)
        self.check_rules, self.refusal = guard.check_rules, guard.refusal


def _remembering(check: Check) -> Check:
    """A check that remembers the verdicts on texts that are not too long."""
    remembered = lru_cache(MAX_REMEMBERED)(check)

    def checked(text: str, language: str | None = None) -> Verdict:
        return (remembered if len(text) <= MAX_REMEMBERED_CHARACTERS else check)(text, language)

    return checked


def open_guard(folder: Path | None) -> Guard:
    """The guard of a folder, its encoder read, for which no request should wait; the rules alone where it is None."""
    if folder is None:
        return RulesGuard()
    guard = LearntGuard.open(folder)
    if guard.encoder is not None:
        opened(guard.encoder)
    return guard


def guard_name(settings: Settings) -> str:
    """What a receipt calls a server's guard: the digest of its files, the rules by their version, or none; then its
    guard model, the categories that it lets pass, and whether prompts pass without its answer. Not where that is: a
    receipt is for anyone."""
    if not settings.guard:
        return "none"
    name, judging = _digest(settings.guard_folder), settings.judging
    if judging is None:
        return name
    version = f" {judging.version}".rstrip() if isinstance(judging, HostedGuard) else ""
    off = ", ".join(category for category, is_on in judging.categories.items() if not is_on)
    passes = " (or pass)" if judging.failure == "pass" else ""
    return f"{name} + {judging.model}{version}{off and f' without {off}'}{passes}"


def _digest(folder: Path | None) -> str:
    if folder is None:
        return f"rules {RULES_VERSION}"
    files = [folder / name for name in (WEIGHTS_FILE, CONFIG_FILE, ENCODER_FILE)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def check_prompt(guard: Guard, conversations: Iterable[Sequence[Message]], begun_reply: str = "") -> Verdict | None:
    """The verdict on prompts of which one must be declined; None where all may pass.

    begun_reply: what the model is to go on with, checked as a reply is."""
    verdicts = (check_conversation(guard, messages) for messages in conversations)
    declined = next((verdict for verdict in verdicts if verdict is not None), None)
    return declined or begin_reply(guard, begun_reply).verdict


def check_conversation(guard: Guard, messages: Sequence[Message]) -> Verdict | None:
    """The verdict on a conversation that must be declined; None where it may pass.

    Every message is checked, the client's account of earlier replies and results of tools as replies are, sentence by
    sentence, since a result is often a long ordinary text; then the user's and the system's together, as
    one request may be split over several: all of them by the rules, the last MAX_JOINED by the classifier too."""
    parts: list[str] = []
    for message in messages:
        text = message["content"]
        if message["role"] in ("assistant", "tool"):
            verdict = begin_reply(guard, text).verdict
        else:
            parts.append(text.strip())
            verdict = guard.check(text, language_of(text))
        if verdict is not None and not verdict.allowed:
            return verdict
    for separator in (" ", "") if len(parts) > 1 else ():
        newest = separator.join(parts[-MAX_JOINED:])
        verdict = guard.check(newest, language_of(newest))
        if verdict.allowed and len(parts) > MAX_JOINED:
            verdict = guard.check_rules(separator.join(parts))
        if not verdict.allowed:
            return verdict
    return None


@dataclass
class GuardedReply:
    """One reply while it grows, checked in parts of whole sentences.

    text: all of it so far; checked: number of its characters, from the beginning, that passed the guard; released: of
    those that may be sent, which are as many, or with a judge those that it let pass; verdict: on the unsafe part that
    ended it, or the judge's."""

    guard: Guard
    text: str = ""
    checked: int = 0
    released: int = 0
    verdict: Verdict | None = None
    judge: Judge | None = None
    begun: int = 0  # characters that stood before the model wrote any
    _sentence_start: int = 0  # of the sentence that is growing
    # What a refusal names ("I will not explain how to …") is not held against the sentences after it: up to here the
    # text is not checked again.
    _excused_until: int = 0

    def append(self, chunk: str, *, last: bool = False) -> int:
        """Adds a chunk; returns `released`. last: the reply is complete, so that its end is checked too."""
        self.text += chunk
        if isinstance(self.guard, NoGuard):  # nothing waits for the end of its sentence
            self.checked = len(self.text)
        while self.verdict is None and (end := self._checkable_end(last)) > self.checked:
            self._check(end)
        if self.judge is None:
            self.released = self.checked
        elif self.verdict is None and self._is_due(last):
            self.judge_with("")
        return self.released

    def judge_with(self, calls: str) -> Verdict | None:
        """The judge's verdict, which ends the reply, on what was checked and the texts of its calls; None without one,
        and where all of it may be sent."""
        if self.judge is not None and self.verdict is None:
            self.verdict = self.judge(self.text[: self.checked] + (f"\n{calls}" if calls else ""))
            if self.verdict is None:
                self.released = self.checked
        return self.verdict

    def _is_due(self, last: bool) -> bool:
        """Whether the judge is asked now: at the end, after the first part, and then every JUDGED_BYTES."""
        waiting = len(self.text[self.released : self.checked].encode())
        return waiting > 0 and (last or self.released == self.begun or waiting >= JUDGED_BYTES)

    def _check(self, end: int) -> None:
        """Checks the text up to a character; one sentence alone where not all of it may pass."""
        context_start = self.checked - CONTEXT_CHARACTERS
        part = self.text[max(self._excused_until, context_start) : end]
        verdict = self.guard.check_reply(part, language_of(part))
        if not verdict.allowed:
            first_end = min(self._sentence_ends(self.checked, end), default=end)
            if first_end < end:
                return self._check(first_end)
            # A clause that refuses does no harm; but a refusal excuses nothing of the clauses after it.
            if not _only_refuses(self.guard, self.text[max(self._sentence_start, context_start) : end]):
                self.verdict = verdict
                return
            self._excused_until = end
        # The space after a sentence's point may begin the part.
        ends = SENTENCE_END.finditer(self.text, max(self._sentence_start, self.checked - 1), end)
        self._sentence_start = max((match.end() for match in ends), default=self._sentence_start)
        self.checked = end

    def with_refusal(self) -> str:
        """What its reader gets of a reply that was ended: the released part, then the refusal."""
        return self.text[: self.released] + self.refusal()

    def refusal(self) -> str:
        """The refusal, on a new line where it follows a text without a space at its end."""
        released = self.text[: self.released]
        separator = "\n" if released and not released[-1].isspace() else ""
        return separator + self.guard.refusal(language_of(self.text))

    def _checkable_end(self, last: bool) -> int:
        """End of the next part to check: some sentences, or as many characters as are held at most; `checked` if none.

        The first sentence is a part by itself: its reader waits for it."""
        limit = self.checked + MAX_HELD_CHARACTERS
        if last and len(self.text) <= limit:
            return len(self.text)
        end = max(self._sentence_ends(self.checked, limit), default=self.checked)
        is_full = len(self.text) >= limit
        if end - self.checked >= (1 if is_full or not self.checked else MIN_PART_CHARACTERS):
            return end
        return limit if is_full else self.checked

    def _sentence_ends(self, start: int, limit: int) -> list[int]:
        """Where sentences end after a character, up to `limit`."""
        return [match.end() for match in SENTENCE_END.finditer(self.text, start, limit + 1) if match.end() <= limit]


def _only_refuses(guard: Guard, sentence: str) -> bool:
    """Whether all that is unsafe in a sentence are clauses that refuse it.

    "I will not explain how to …" does; "I can't help with that, but here is how to …" does not."""
    clauses = [clause for clause in CLAUSE_END.split(sentence) if clause.strip()]
    return is_refusal(sentence) and all(
        is_refusal(clause) or guard.check_reply(clause, language_of(clause)).allowed for clause in clauses
    )


def begin_reply(guard: Guard, begun: str, judge: Judge | None = None) -> GuardedReply:
    """A reply of which this text stands already: checked and released, so that what follows is checked in its
    context, and judged with it."""
    reply = GuardedReply(guard, begun=len(begun))
    reply.append(begun, last=True)
    reply.judge = judge
    return reply
