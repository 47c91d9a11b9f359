"""Log-probabilities and entropies of tokens under a language model, and losses of them, without a tensor of all logits.

    hidden [N, H], head [V, H] ──a chunk of tokens at a time──► logits ──► log p, entropy ──► loss

All losses multiply with the output embedding here. Products are in the weight's dtype; everything between them, and
the sum of the chunks' gradients, is float32.

Shapes: N tokens, C of them a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pipelines.learning.memory import CHUNK_LOGITS, MIN_CHUNK_TOKENS


class Head(NamedTuple):
    """A model's output embedding, and what the model does to its logits afterwards: s = scale · hidden @ weight.T, then
    soft_cap · tanh(s / soft_cap) where there is a cap (Gemma Team 2024, Gemma 2, section 2)."""

    weight_VH: Tensor
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states [..., H] at once. float32 [..., V]."""
        logits = (hidden @ self.weight_VH.T).float() * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


class TokenScores(NamedTuple):
    """Scores of tokens under a model. float32 [N], nats."""

    logprobs_N: Tensor
    entropies_N: Tensor  # of the whole distribution of each token; empty where they are not computed


TokenLoss = Callable[[TokenScores, slice], Tensor]
"""A loss summed over a chunk of tokens. Arguments: their scores, and which of the N tokens they are."""


def token_logprobs(hidden_NH: Tensor, head: Head, actions_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(action) of each token, p = softmax(logits / temperature). float32 [N].

    hidden_NH: the last layer's output at the position before each token; actions_N: int. The backward pass computes the
    logits again; fused_token_loss does not, if the loss is a sum over tokens."""
    return cast(Any, _TokenLogprobs.apply(hidden_NH, head.weight_VH, actions_N.long(), _Shape.of(head, temperature)))


def fused_token_loss(
    hidden_NH: Tensor,
    head: Head,
    actions_N: Tensor,
    loss: TokenLoss,
    *,
    temperature: float = 1.0,
    entropies: bool = True,
) -> tuple[Tensor, TokenScores]:
    """A loss summed over all tokens (scalar, float32), and the scores of all tokens, detached.

    Arguments as of token_logprobs; loss: called once a chunk; entropies: whether it gets them. The gradients by hidden
    and weight are made with the chunk's logits, while they are in memory (after Liger Kernel, Hsu et al. 2024, section
    3): no logits are kept for the backward pass, and none are computed twice."""
    needs_grad = torch.is_grad_enabled() and (hidden_NH.requires_grad or head.weight_VH.requires_grad)
    total, *scores = cast(Any, _FusedTokenLoss.apply(
        hidden_NH, head.weight_VH, actions_N.long(), loss, _Shape.of(head, temperature), entropies, needs_grad
    ))  # fmt: skip
    return total, TokenScores(*scores)


def chunk_tokens(weight_VH: Tensor) -> int:
    """Number of tokens whose logits are in memory at once."""
    return max(MIN_CHUNK_TOKENS, CHUNK_LOGITS.get(weight_VH.device.type, CHUNK_LOGITS["cuda"]) // weight_VH.shape[0])


class _Shape(NamedTuple):
    """From hidden @ weight.T to logits ÷ temperature: factor · raw, or outer · tanh(factor · raw) with a soft cap."""

    factor: float
    outer: float | None

    @classmethod
    def of(cls, head: Head, temperature: float) -> _Shape:
        if head.soft_cap is None:
            return cls(head.scale / temperature, None)
        return cls(head.scale / head.soft_cap, head.soft_cap / temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, shape: _Shape) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, actions_N)
        ctx.shape = shape
        logprobs_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        for part, chunk in _chunks(hidden_NH, weight_VH, actions_N, shape):
            logprobs_N[part] = chunk.logprobs_C
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, actions_N = ctx.saved_tensors
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_weight_VH = _zeros(weight_VH) if ctx.needs_input_grad[1] else None
        for part, chunk in _chunks(hidden_NH, weight_VH, actions_N, ctx.shape):
            chunk.backward(grad_outputs[0][part], None, grad_hidden_NH[part], grad_weight_VH)
        return grad_hidden_NH, _cast(grad_weight_VH, weight_VH.dtype), None, None


class _FusedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, loss: TokenLoss, shape: _Shape,
        entropies: bool, needs_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        logprobs_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        entropies_N = logprobs_N.new_empty(len(hidden_NH) if entropies else 0)
        total = logprobs_N.new_zeros(())
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_grad else None
        grad_weight_VH = _zeros(weight_VH) if needs_grad and ctx.needs_input_grad[1] else None
        for part, chunk in _chunks(hidden_NH, weight_VH, actions_N, shape, entropies=entropies):
            logprobs_N[part] = chunk.logprobs_C
            if entropies:
                entropies_N[part] = chunk.entropies_C
            value, grad_logprobs_C, grad_entropies_C = _loss_and_gradients(loss, chunk, part)
            total += value
            if grad_hidden_NH is not None:
                chunk.backward(grad_logprobs_C, grad_entropies_C, grad_hidden_NH[part], grad_weight_VH)
        ctx.save_for_backward(grad_hidden_NH, grad_weight_VH)
        ctx.weight_dtype = weight_VH.dtype
        ctx.mark_non_differentiable(logprobs_N, entropies_N)
        ctx.set_materialize_grads(False)
        return total, logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        scale = grad_outputs[0]
        grad_weight_VH = None if grad_weight_VH is None else (grad_weight_VH * scale).to(ctx.weight_dtype)
        return grad_hidden_NH * scale, grad_weight_VH, None, None, None, None, None


class _Chunk:
    """The logits of C tokens, and what follows from them.

    exp_CV: exp(logit − the row's largest), the only tensor of V columns, but for the shifted logits themselves where
    entropies need them, and the slope of a soft cap."""

    def __init__(self, hidden_CH: Tensor, weight_VH: Tensor, actions_C: Tensor, shape: _Shape, entropies: bool):
        self.hidden_CH, self.weight_VH = hidden_CH.to(weight_VH.dtype), weight_VH
        self.actions_C1, self.shape = actions_C.unsqueeze(1), shape
        logits_CV = (self.hidden_CH @ weight_VH.T).float()
        if shape.factor != 1.0:
            logits_CV.mul_(shape.factor)
        if shape.outer is not None:
            logits_CV.tanh_()
            self.slope_CV = logits_CV.square().neg_().add_(1.0)
            logits_CV.mul_(shape.outer)
        self.shifted_CV = logits_CV.sub_(logits_CV.amax(-1, keepdim=True))
        shifted_actions_C = self.shifted_CV.gather(1, self.actions_C1).squeeze(1)
        self.exp_CV = self.shifted_CV.exp() if entropies else self.shifted_CV.exp_()
        self.sums_C = self.exp_CV.sum(-1)
        self.logprobs_C = shifted_actions_C - self.sums_C.log()
        self.entropies_C = self._entropies_C() if entropies else self.sums_C.new_empty(0)

    def _entropies_C(self) -> Tensor:
        """log Z − Σ p · logit."""
        weighted_C = torch.bmm(self.exp_CV[:, None], self.shifted_CV[:, :, None]).flatten()
        return self.sums_C.log() - weighted_C / self.sums_C

    def backward(
        self,
        grad_logprobs_C: Tensor,
        grad_entropies_C: Tensor | None,
        grad_hidden_CH: Tensor,
        grad_weight_VH: Tensor | None,
    ) -> None:
        """Writes a loss's gradient by hidden into grad_hidden_CH, and adds the one by the weight to grad_weight_VH."""
        grad_logits_CV = self._grad_logits_CV(grad_logprobs_C, grad_entropies_C)
        grad_hidden_CH.copy_(grad_logits_CV @ self.weight_VH)
        if grad_weight_VH is None:
            return
        if grad_logits_CV.dtype == grad_weight_VH.dtype:
            grad_weight_VH.addmm_(grad_logits_CV.T, self.hidden_CH)  # one kernel
        else:
            grad_weight_VH += grad_logits_CV.T @ self.hidden_CH

    def _grad_logits_CV(self, grad_logprobs_C: Tensor, grad_entropies_C: Tensor | None) -> Tensor:
        """The loss's gradient by hidden @ weight.T, in place of exp_CV and shifted_CV.

        d log p[action] / d logit = one-hot − p; d entropy / d logit = −p (log p + entropy)."""
        grad_CV = self.exp_CV
        if grad_entropies_C is None:
            grad_CV.mul_((-grad_logprobs_C / self.sums_C)[:, None])
        else:
            factor_C = grad_logprobs_C + grad_entropies_C * (self.entropies_C - self.sums_C.log())
            factor_CV = self.shifted_CV.mul_(grad_entropies_C[:, None]).add_(factor_C[:, None])
            grad_CV.mul_(factor_CV.div_(-self.sums_C[:, None]))
        grad_CV.scatter_add_(1, self.actions_C1, grad_logprobs_C[:, None])
        factor = self.shape.factor
        if self.shape.outer is not None:
            grad_CV.mul_(self.slope_CV)  # d tanh(x) / dx = 1 − tanh(x)²
            factor *= self.shape.outer
        if factor != 1.0:
            grad_CV.mul_(factor)
        return grad_CV.to(self.weight_VH.dtype)


def _chunks(
    hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, shape: _Shape, *, entropies: bool = False
) -> Iterator[tuple[slice, _Chunk]]:
    size = chunk_tokens(weight_VH)
    for start in range(0, len(hidden_NH), size):
        part = slice(start, start + size)
        yield part, _Chunk(hidden_NH[part], weight_VH, actions_N[part], shape, entropies)


def _zeros(weight_VH: Tensor) -> Tensor:
    """Where the chunks' gradients by the weight are summed: in 16 bits later chunks would be rounded away."""
    return torch.zeros_like(weight_VH, dtype=torch.float32)


def _cast(gradient: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


def _loss_and_gradients(loss: TokenLoss, chunk: _Chunk, part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss of a chunk, and its gradients by the log-probabilities and by the entropies (None: not used)."""
    with torch.enable_grad():
        scores = TokenScores(chunk.logprobs_C.detach().requires_grad_(), chunk.entropies_C.detach().requires_grad_())
        value = loss(scores, part)
        grad_logprobs_C, grad_entropies_C = torch.autograd.grad(value, scores, allow_unused=True)
    if grad_logprobs_C is None:
        grad_logprobs_C = torch.zeros_like(chunk.logprobs_C)
    return value.detach(), grad_logprobs_C, grad_entropies_C
