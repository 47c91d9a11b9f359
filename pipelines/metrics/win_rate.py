"""Win rate over the previous model, by the rule that made the preferences, never by a reward that was optimised.

An acceptable reply (data/dialogues/verifier.py) beats an unacceptable one; two of a kind are a tie and count half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """heldout/win_rate, heldout/win_rate_low, heldout/win_rate_prompts; the first also by language (_en, _zh)."""
    if previous is None:
        return Score()
    pairs = exchanges(material, requests, outputs, previous)
    wins, losses = _counts(pairs)
    facts: dict[str, float | int | str] = {
        "heldout/win_rate": win_rate(wins, losses, len(pairs)),
        "heldout/win_rate_low": win_rate_low(wins, losses, len(pairs)),
        "heldout/win_rate_prompts": len(pairs),
    }
    for language in sorted({exchange.conversation.language for exchange in pairs}):
        in_language = [exchange for exchange in pairs if exchange.conversation.language == language]
        facts[f"heldout/win_rate_{language}"] = win_rate(*_counts(in_language), len(in_language))
    return Score(facts)


def _counts(pairs: Sequence[Exchange]) -> tuple[int, int]:
    """Wins and losses against the previous model."""
    wins = losses = 0
    for exchange in pairs:
        assert exchange.previous_reply is not None, "both models got the same prompts"
        right = is_acceptable(exchange.conversation, exchange.reply.text)
        previous_right = is_acceptable(exchange.conversation, exchange.previous_reply.text)
        wins += right and not previous_right
        losses += previous_right and not right
    return wins, losses
