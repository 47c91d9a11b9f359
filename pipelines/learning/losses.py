"""Cross-entropy of the next token: a sum over the tokens that are learnt and their number, never a mean.

The caller divides by the number over all workers and micro-batches of an optimiser step, so that a gradient does not
depend on how the batch was cut. Shapes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pipelines.learning.token_scores import Head, TokenScores, fused_token_loss

IGNORE = -100  # the label of a token whose successor is not to be learnt


class Summed(NamedTuple):
    """A loss in nats, summed over num_tokens tokens."""

    total: Tensor  # scalar, float32
    num_tokens: int


def next_token_cross_entropy(
    hidden_NH: Tensor, head: Head, labels_N: Tensor, weights_N: Tensor | None = None
) -> Summed:
    """-log p(label) of every token whose label is not IGNORE, with p = softmax(logits), times its weight.

    hidden_NH: the last layer's output, any leading shape; labels_N: int, and weights_N: float, of the same leading
    shape; None: all 1. Equals torch.nn.functional.cross_entropy(reduction="sum") and its gradients, without all
    logits. The number of tokens does not depend on the weights."""
    labels_N = labels_N.reshape(-1)
    learnt_N = (labels_N != IGNORE).nonzero().squeeze(1)
    hidden_NH = hidden_NH.reshape(-1, hidden_NH.shape[-1]).index_select(0, learnt_N)
    labels_N = labels_N.index_select(0, learnt_N)
    weights_N = None if weights_N is None else weights_N.reshape(-1).index_select(0, learnt_N)

    def negative_log_likelihood(scores: TokenScores, part: slice) -> Tensor:
        return -(scores.logprobs_N if weights_N is None else scores.logprobs_N * weights_N[part]).sum()

    total, _ = fused_token_loss(hidden_NH, head, labels_N, negative_log_likelihood, entropies=False)
    return Summed(total, len(labels_N))
