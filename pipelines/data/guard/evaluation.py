"""Evaluates a guard on held-out conversations and texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard.classifier import Guard, Verdict


def evaluation_facts(
    guard: Guard, held_out: Sequence[Conversation], corpus_windows: Sequence[tuple[str, str]] = ()
) -> dict[str, float | int | str]:
    """Evaluates a guard on the last prompt turns of held-out conversations.

    Facts: guard/precision, guard/recall and guard/false_positive_look_alikes, in all and by language (_en, _zh), and
    the same of the classifier without the rules (_classifier); guard/check_ms, the mean time of a check;
    guard/false_positive_text, the fraction of declined corpus_windows (text, language) of a held-out corpus."""
    requests = [(conversation, conversation.prompt[-1]["content"]) for conversation in held_out if conversation.prompt]
    start = time.perf_counter()
    verdicts = [guard.check(text, conversation.language) for conversation, text in requests]
    elapsed_s = time.perf_counter() - start
    facts: dict[str, float | int | str] = {"guard/held_out_prompts": len(requests)}
    if requests:
        facts["guard/check_ms"] = 1000 * elapsed_s / len(requests)
    without_rules = replace(guard, rules=())
    classifier_verdicts = [
        without_rules.check(text, conversation.language) if verdict.reason.startswith("rule ") else verdict
        for (conversation, text), verdict in zip(requests, verdicts, strict=True)
    ]
    for suffix, results in (("", verdicts), ("_classifier", classifier_verdicts)):
        evaluated = [(conversation, verdict) for (conversation, _), verdict in zip(requests, results, strict=True)]
        facts |= {f"guard/{name}{suffix}": value for name, value in _rates(evaluated).items()}
        for language in sorted({conversation.language for conversation, _ in requests}):
            rates = _rates([each for each in evaluated if each[0].language == language])
            facts |= {f"guard/{name}{suffix}_{language}": value for name, value in rates.items()}
    if corpus_windows:
        declined = [not guard.check(text, language).allowed for text, language in corpus_windows]
        facts["guard/false_positive_text"] = float(np.mean(declined))
    return facts


def _rates(evaluated: Sequence[tuple[Conversation, Verdict]]) -> dict[str, float]:
    """Precision, recall, and the fraction of look-alikes declined; without those that are undefined."""
    unsafe_of_declined = [each.safety == "unsafe" for each, verdict in evaluated if not verdict.allowed]
    declined_of_unsafe = [not verdict.allowed for each, verdict in evaluated if each.safety == "unsafe"]
    declined_of_look_alikes = [not verdict.allowed for each, verdict in evaluated if each.safety == "safe"]
    rates = {
        "precision": unsafe_of_declined,
        "recall": declined_of_unsafe,
        "false_positive_look_alikes": declined_of_look_alikes,
    }
    return {name: float(np.mean(outcomes)) for name, outcomes in rates.items() if outcomes}
