"""Win rate over the previous model, by rules that no stage optimises as a reward model's score.

verifier      a prompt with a checkable answer, one that must be declined, or one that only looks so: an acceptable
              reply (verifier.py) beats an unacceptable one; where declining is wrong, a reply must also share a word
              with the conversation's own
reference     any other prompt: a reply wins whose words overlap more with the conversation's own reply (F1), if its
              model also gives that reply a higher likelihood. A fluent reply that says something else, or a row of
              digits, cannot win

What is no win for either is a tie and counts half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.data.dialogues.answer_match import f1
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.verifier import is_acceptable
from pipelines.metrics.exchanges import Exchange, exchanges
from pipelines.metrics.metric import Material, Outputs, Requests, Score
from pipelines.metrics.pair_figures import Z95


def win_rate(wins: int, losses: int, num_prompts: int) -> float:
    """Wins and half of the ties, of all prompts."""
    return 0.5 + (wins - losses) / num_prompts / 2


def win_rate_low(wins: int, losses: int, num_prompts: int) -> float:
    """Lower bound of the win rate's 95% interval.

    The two models' replies are matched pairs, so the win rate is ½ + Δ ÷ 2 with Δ the difference of two proportions.
    Δ's interval is Wald's after half an observation is added to each of the four outcomes (Agresti & Min 2005,
    Statistics in Medicine 24, 729-740): with w = wins + ½, l = losses + ½, n = prompts + 2,

        low = ½ + ½ · [ (w − l) ÷ n − 1.96 · √( (w + l) − (w − l)² ÷ n ) ÷ n ]

    so that even all ties, or all wins of a few prompts, leave room for chance."""
    won, lost, count = wins + 0.5, losses + 0.5, num_prompts + 2
    spread = math.sqrt((won + lost) - (won - lost) ** 2 / count) / count
    return 0.5 + ((won - lost) / count - Z95 * spread) / 2


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/win_rate, heldout/win_rate_low, heldout/win_rate_prompts, heldout/win_rate_rule; the first also by
    language (_en, _zh)."""
    if previous is None:
        return Score()
    pairs = exchanges(material, requests, outputs, previous)
    wins, losses = _counts(pairs)
    rules = dict.fromkeys(rule(exchange.conversation) for exchange in pairs)
    facts: dict[str, float | int | str] = {
        "heldout/win_rate": win_rate(wins, losses, len(pairs)),
        "heldout/win_rate_low": win_rate_low(wins, losses, len(pairs)),
        "heldout/win_rate_prompts": len(pairs),
        "heldout/win_rate_rule": " and ".join(sorted(rules, reverse=True)),
    }
    for language in sorted({exchange.conversation.language for exchange in pairs}):
        in_language = [exchange for exchange in pairs if exchange.conversation.language == language]
        facts[f"heldout/win_rate_{language}"] = win_rate(*_counts(in_language), len(in_language))
    return Score(facts)


def rule(conversation: Conversation) -> str:
    """Which rule decides between two replies to a conversation's prompt."""
    return "verifier" if conversation.answer is not None or conversation.safety else "reference"


def _is_right(conversation: Conversation, text: str) -> bool:
    on_topic = conversation.safety != "safe" or f1(text, conversation.reply) > 0
    return on_topic and is_acceptable(conversation, text)


def _counts(pairs: Sequence[Exchange]) -> tuple[int, int]:
    """Wins and losses against the previous model."""
    signs = [_sign(exchange) for exchange in pairs]
    return signs.count(1), signs.count(-1)


def _sign(exchange: Exchange) -> int:
    """1: the reply beats the previous model's; -1: the other way round; 0: a tie."""
    assert exchange.previous_reply is not None, "both models got the same prompts"
    assert exchange.previous_likelihood is not None
    conversation, texts = exchange.conversation, (exchange.reply.text, exchange.previous_reply.text)
    if rule(conversation) == "verifier":
        ours, theirs = (_is_right(conversation, text) for text in texts)
        return int(ours) - int(theirs)
    reference = conversation.reply
    ours, theirs = (f1(text, reference) for text in texts)
    by_overlap = (ours > theirs) - (ours < theirs)
    nats, previous_nats = exchange.likelihood.nats, exchange.previous_likelihood.nats
    by_likelihood = (nats < previous_nats) - (nats > previous_nats)
    return by_overlap if by_overlap == by_likelihood else 0
