"""Harm in a corpus: toxic and discriminating documents, unsafe ones by the guard, and whom they are about.

    document ──sentences──► word lists, in context ──► toxicity, discrimination ─┐
             └────windows─► the guard's classifier ──► unsafe ───────────────────┴──► dropped, or counted
             └────groups of people that it mentions ──► documents and dropped documents of each group

Words count in their context alone: a sentence that reports, rejects or discusses what is said counts for nothing. The
counts by group show whether cleaning silences one: which part of the documents that mention it are dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pipelines.data.corpus.checks import Candidates, CheckResult
from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.guard.classifier import Guard
from pipelines.data.guard.disguises import canonical_text
from pipelines.data.text.document_stats import DocumentStats
from pipelines.data.text.harm_kinds import HarmKind, HarmOptions
from pipelines.data.text.harm_words import ABUSE, BETWEEN, DEROGATORY, GROUPS, REPORTED, SWEAR, VERB
from pipelines.data.text.languages import CHARACTERS_PER_WORD

AREA = "harm/"  # of its counts and facts
ABUSE_POINTS = 3  # of a slur, an insult or a threat; a swear word has one
MIN_POINTS, MAX_TOXIC_FRACTION = 3, 0.03  # points of a document, and for each of its words
MAX_UNSAFE_FRACTION = 0.2  # of the windows of a document that the guard would decline
SENTENCE = re.compile(r"[^.!?。！？\n;；]+")
QUOTED_CHARACTERS = 100  # of a sentence, in messages


@dataclass(frozen=True)
class Harm:
    """The check. actions: by kind; a kind that is missing is not looked for. guard: for the kind unsafe."""

    actions: HarmOptions
    guard: Guard | None = None

    def apply(self, batch: Candidates) -> CheckResult:
        """Counts the harmful documents and the groups, and drops those of the kinds whose action is drop. The batch has
        the groups that its documents mention."""
        result = CheckResult()
        for position in batch.kept:
            document = batch.documents[position]
            groups = batch.groups[position]
            counted = ["documents", *(f"documents_{group}" for group in groups)]
            for kind, problem in self.find(document).items():
                counted.append(kind)
                if self.actions[kind] == "drop" and position not in result.dropped:
                    result.dropped[position] = Verdict(False, kind, message=problem)
                    counted += ["dropped", *(f"dropped_{group}" for group in groups)]
            result.counts.update(f"{AREA}{name}" for name in counted)
        return result

    def find(self, document: DocumentStats) -> dict[HarmKind, str]:
        """The kinds of harm in a document that have an action, each with what was observed."""
        found: dict[HarmKind, str | None] = {}
        text = document.text.lower().replace("\u2019", "'")
        if "toxicity" in self.actions:
            found["toxicity"] = toxicity(text, document.language, _num_words(document))
        if "discrimination" in self.actions:
            found["discrimination"] = discrimination(text, document.language)
        if "unsafe" in self.actions and self.guard is not None:
            fraction = self.guard.unsafe_fraction(canonical_text(document.text), document.language)
            is_unsafe = fraction > MAX_UNSAFE_FRACTION
            found["unsafe"] = f"the guard declines {fraction:.2f} > {MAX_UNSAFE_FRACTION} of it" if is_unsafe else None
        return {kind: problem for kind, problem in found.items() if problem is not None}


def harm_facts(actions: HarmOptions, counts: Counter[str]) -> dict[str, int | float]:
    """Facts of counts by `Harm`: harm/<kind>, harm/dropped_fraction; harm/documents_<group> and
    harm/dropped_fraction_<group> of each group that is mentioned."""
    facts: dict[str, int | float] = {f"{AREA}{kind}": counts[f"{AREA}{kind}"] for kind in sorted(actions)}
    for suffix in ("", *(f"_{group}" for group in GROUPS)):
        num_documents, dropped = counts[f"{AREA}documents{suffix}"], counts[f"{AREA}dropped{suffix}"]
        if num_documents:
            facts |= {f"{AREA}documents{suffix}": num_documents,
                      f"{AREA}dropped_fraction{suffix}": dropped / num_documents}  # fmt: skip
    return facts


def silenced(facts: Mapping[str, int | float | str]) -> list[str]:
    """The groups of which a much larger part is dropped than of all documents: twice as much, and 10 documents more."""
    share = float(facts.get(f"{AREA}dropped_fraction", 0))
    groups: list[str] = []
    for group in GROUPS:
        number, fraction = (float(facts.get(f"{AREA}{what}_{group}", 0)) for what in ("documents", "dropped_fraction"))
        if fraction > 2 * share and number * (fraction - share) >= 10:
            groups.append(group)
    return groups


def toxicity(text: str, language: str, num_words: float) -> str | None:
    """What makes a lower-case text toxic, by its words: None if it is not.

    >>> toxicity("you are such an idiot, get lost", "en", 7)
    '3 points of abuse in 7 words: you are such an idiot'
    """
    points, first = 0, ""
    for sentence in SENTENCE.findall(text):
        abuse = _matches(ABUSE, sentence, language)
        swearing = _matches(SWEAR, sentence, language)
        if (abuse or swearing) and not _matches(REPORTED, sentence, language):
            points += ABUSE_POINTS * len(abuse) + len(swearing)
            first = first or (abuse + swearing)[0]
    if points < MIN_POINTS or points <= MAX_TOXIC_FRACTION * num_words:
        return None
    return f"{points} points of abuse in {num_words:.0f} words: {first[:QUOTED_CHARACTERS]}"


def discrimination(text: str, language: str) -> str | None:
    """The first statement against a group as a whole in a lower-case text; None if there is none.

    >>> discrimination("he left. women are just too stupid for this.", "en")
    'against women: women are just too stupid'
    >>> discrimination("it is a myth that women are stupid", "en") is None
    True
    """
    if not _pattern(_any(DEROGATORY, language), language).search(text):
        return None  # most texts: their sentences need not be looked at
    for sentence in SENTENCE.findall(text):
        for group, names in GROUPS.items():
            match = _statement(names.get(language, ""), language).search(sentence) if language in names else None
            if match is not None:
                rest = sentence[: match.start()] + " " + sentence[match.end() :]
                if not _matches(REPORTED, rest, language):
                    return f"against {group}: {match[0].strip()[:QUOTED_CHARACTERS]}"
    return None


def _num_words(document: DocumentStats) -> float:
    """Words of a document, Chinese characters by what they say."""
    return document.words - document.chinese + document.chinese / CHARACTERS_PER_WORD


def _matches(words: Mapping[str, str], sentence: str, language: str) -> list[str]:
    return [match[0] for match in _pattern(_any(words, language), language).finditer(sentence)]


def _any(words: Mapping[str, str], language: str) -> str:
    return words.get(language, "(?!)")  # of another language: matches nothing


@lru_cache(maxsize=128)
def _pattern(words: str, language: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b" if language == "en" else words)


@lru_cache(maxsize=128)
def _statement(group: str, language: str) -> re.Pattern[str]:
    """A group of people, and something derogatory that is said of it."""
    if language == "en":
        return re.compile(rf"\b(?:{group})\b(?: people)? (?:{VERB['en']})\b{BETWEEN['en']} (?:{DEROGATORY['en']})\b")
    return re.compile(f"(?:{group}){BETWEEN[language]}(?:{DEROGATORY[language]})")
