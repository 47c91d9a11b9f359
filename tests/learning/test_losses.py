"""The chunked cross-entropy against torch.nn.functional."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.learning import token_scores
from pipelines.learning.losses import IGNORE, next_token_cross_entropy
from pipelines.learning.token_scores import Head


def example(
    tokens: int = 300, hidden: int = 16, vocabulary: int = 97, ignored: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    hidden_NH = torch.randn(tokens, hidden, requires_grad=True)
    weight_VH = torch.randn(vocabulary, hidden, requires_grad=True)
    labels_N = torch.randint(0, vocabulary, (tokens,))
    labels_N[torch.rand(tokens) < ignored] = IGNORE
    return hidden_NH, weight_VH, labels_N


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [g.clone() for g in torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("chunk", [128, 7, 1000])
def test_equals_torch_whatever_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = example()
    monkeypatch.setattr(token_scores, "chunk_tokens", lambda _: chunk)
    ours = next_token_cross_entropy(hidden, Head(weight), labels)
    theirs = F.cross_entropy(hidden @ weight.T, labels, reduction="sum", ignore_index=IGNORE)
    assert ours.num_tokens == int((labels != IGNORE).sum())
    torch.testing.assert_close(ours.total, theirs, rtol=1e-6, atol=0)
    for mine, other in zip(
        gradients(ours.total * 0.37, hidden, weight), gradients(theirs * 0.37, hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_weights_multiply_the_losses_of_tokens(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = example()
    monkeypatch.setattr(token_scores, "chunk_tokens", lambda _: chunk)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) * 3
    ours = next_token_cross_entropy(hidden, Head(weight), labels, weights)
    each = F.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=IGNORE)
    assert ours.num_tokens == int((labels != IGNORE).sum())
    torch.testing.assert_close(ours.total, (each * weights).sum(), rtol=1e-6, atol=0)
    for mine, other in zip(
        gradients(ours.total, hidden, weight), gradients((each * weights).sum(), hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=5e-6)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, labels = example()
    ours = next_token_cross_entropy(hidden * 100, Head(weight), labels).total
    theirs = F.cross_entropy(hidden * 100 @ weight.T, labels, reduction="sum", ignore_index=IGNORE)
    assert torch.isfinite(ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_no_labels_give_zero_and_zero_gradients() -> None:
    hidden, weight, labels = example(ignored=2.0)
    total, tokens = next_token_cross_entropy(hidden, Head(weight), labels)
    assert (total.item(), tokens) == (0.0, 0)
    for gradient in gradients(total, hidden, weight):
        assert gradient.abs().max() == 0


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, labels = example()
    with torch.no_grad():
        quiet = next_token_cross_entropy(hidden, Head(weight), labels).total
    assert not quiet.requires_grad
    assert quiet == next_token_cross_entropy(hidden, Head(weight), labels).total


def test_a_frozen_output_embedding_gets_no_gradient_and_changes_none() -> None:
    hidden, weight, labels = example()
    total = next_token_cross_entropy(hidden, Head(weight.detach()), labels).total
    kept = total.grad_fn.saved_tensors  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert kept[1] is None  # it was not computed
    (ours,) = gradients(total, hidden)
    (theirs,) = gradients(next_token_cross_entropy(hidden, Head(weight), labels).total, hidden)
    assert torch.equal(ours, theirs)


def test_bfloat16_products_are_close_and_chunks_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "chunk_tokens", lambda _: 2)  # so many sums that bfloat16 would round them away
    hidden, weight, labels = example()
    exact = next_token_cross_entropy(hidden, Head(weight), labels).total
    rough = next_token_cross_entropy(hidden.bfloat16(), Head(weight.bfloat16()), labels).total
    assert rough != exact
    torch.testing.assert_close(rough, exact, rtol=5e-3, atol=0)
    for mine, other in zip(gradients(rough, hidden, weight), gradients(exact, hidden, weight), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize(("vocabulary", "max_bytes"), [(4096, 8.4e6), (151_936, 80e6)])
def test_logits_of_a_large_vocabulary_are_never_whole(vocabulary: int, max_bytes: float) -> None:
    assert token_scores.chunk_tokens(torch.empty(vocabulary, 1)) * vocabulary * 4 <= max_bytes
