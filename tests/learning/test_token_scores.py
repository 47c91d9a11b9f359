"""Chunked scores of tokens and their losses against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.learning import token_scores
from pipelines.learning.token_scores import Head, TokenScores, fused_token_loss, token_logprobs


def example(tokens: int = 300, hidden: int = 16, vocabulary: int = 97) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    hidden_NH = torch.randn(tokens, hidden, requires_grad=True)
    weight_VH = torch.randn(vocabulary, hidden, requires_grad=True)
    return hidden_NH, weight_VH, torch.randint(0, vocabulary, (tokens,))


def by_torch(hidden: Tensor, head: Head, actions: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = head.scale * hidden @ head.weight_VH.T
    if head.soft_cap is not None:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    drawn = torch.distributions.Categorical(logits=logits / temperature)
    return drawn.log_prob(actions), drawn.entropy()


@pytest.mark.parametrize(("chunk", "temperature"), [(128, 1.0), (7, 0.7), (1000, 1.3)])
@pytest.mark.parametrize("factors", [(1.0, 0.0), (0.0, 1.0), (0.3, -2.0)], ids=["logprobs", "entropies", "both"])
@pytest.mark.parametrize("shape", [(1.0, None), (0.4, None), (1.5, 3.0)], ids=["plain", "scaled", "capped"])
def test_a_loss_of_tokens_and_its_gradients_equal_torch(
    chunk: int, temperature: float, factors: tuple[float, float], shape: tuple[float, float | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hidden, weight, actions = example()
    head = Head(weight, *shape)
    monkeypatch.setattr(token_scores, "chunk_tokens", lambda _: chunk)
    by_token = torch.randn(2, len(actions))

    def loss(scores: TokenScores, part: slice) -> Tensor:
        columns = zip(factors, scores, by_token, strict=True)
        terms = [f * (column.square() * weights[part]).sum() for f, column, weights in columns if f]
        return torch.stack(terms).sum()

    total, scores = fused_token_loss(hidden, head, actions, loss, temperature=temperature)
    theirs = TokenScores(*by_torch(hidden, head, actions, temperature))
    for mine, other in zip(scores, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        assert not mine.requires_grad
    expected = loss(theirs, slice(None))
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-3)
    gradients = zip(*(torch.autograd.grad(3 * value, (hidden, weight)) for value in (total, expected)), strict=True)
    for one, two in gradients:
        torch.testing.assert_close(one, two, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize(("chunk", "temperature", "shape"), [(128, 1.0, (1.0, None)), (7, 0.7, (0.5, 2.0))])
def test_scores_and_their_gradients_equal_torch(
    chunk: int, temperature: float, shape: tuple[float, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, actions = example()
    head = Head(weight, *shape)
    monkeypatch.setattr(token_scores, "chunk_tokens", lambda _: chunk)
    ours = token_logprobs(hidden, head, actions, temperature=temperature)
    theirs = by_torch(hidden, head, actions, temperature)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    by_token = torch.randn(len(actions))
    gradients = (torch.autograd.grad((values * by_token).sum(), (hidden, weight)) for values in (ours, theirs))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-4)


def test_no_tokens_give_a_loss_of_0_and_zero_gradients() -> None:
    hidden, weight, actions = example()
    total, scores = fused_token_loss(hidden[:0], Head(weight), actions[:0], lambda scores, _: scores.logprobs_N.sum())
    assert total == 0 and len(scores.logprobs_N) == len(scores.entropies_N) == 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(total, (hidden, weight)))


def test_in_bfloat16_only_the_products_are_rough() -> None:
    hidden, weight, actions = example()
    exact, _ = fused_token_loss(hidden, Head(weight), actions, lambda scores, _: scores.logprobs_N.sum())
    rough, scores = fused_token_loss(
        hidden.bfloat16(), Head(weight.bfloat16()), actions, lambda scores, _: scores.logprobs_N.sum()
    )
    assert scores.logprobs_N.dtype == torch.float32
    assert rough != exact and rough.item() == pytest.approx(exact.item(), rel=1e-2)
    one, two = (torch.autograd.grad(total, hidden)[0].flatten() for total in (exact, rough))
    assert torch.cosine_similarity(one, two, dim=0) > 0.999
