"""The optimisers that the engine must equal, written out: no DeepSpeed, one process, whole batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pipelines.learning.batch import PackedBatch
from pipelines.learning.engine import OptimizerPlan
from pipelines.learning.model import NextTokenLearner, hidden_matrices


def orthogonal(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz iterations in float64 towards the nearest orthogonal matrix (Jordan et al. 2024)."""
    x = matrix.double() / (matrix.double().norm() + 1e-7)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    return (x * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5).float()


class Trained(NamedTuple):
    """Weights after some steps, and norms at each of them, before clipping."""

    weights: dict[str, Tensor]
    gradient_norms: list[float]
    update_norms: list[float]  # with the orthogonalised updates of Muon's matrices in place of their gradients


def train(learner: NextTokenLearner, batch: PackedBatch, plan: OptimizerPlan, lr_factors: list[float]) -> Trained:
    """Trains on the same batch, a step for each factor of the peak learning rates."""
    by_muon = {id(p) for p in hidden_matrices(learner.model)} if plan.kind == "muon" else set()
    matrices = [p for p in learner.parameters() if id(p) not in by_muon and p.ndim == 2]
    vectors = [p for p in learner.parameters() if p.ndim == 1]
    rate = plan.adam_learning_rate if plan.kind == "muon" else plan.learning_rate
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=plan.betas,
    )
    momenta = {id(p): torch.zeros_like(p) for p in learner.parameters()}
    gradient_norms, update_norms = [], []
    for lr_factor in lr_factors:
        learner.zero_grad()
        (learner(batch) / batch.num_labels).backward()
        gradients = {id(p): cast(Tensor, p.grad).clone() for p in learner.parameters()}
        gradient_norms.append(norm(gradients.values()))
        if plan.kind == "adamw":
            torch.nn.utils.clip_grad_norm_(learner.parameters(), plan.clip_norm or float("inf"))
        for group in adam.param_groups:
            group["lr"] = rate * lr_factor
        adam.step()
        updates = {}
        for parameter in learner.parameters():
            if id(parameter) in by_muon:
                momentum, gradient = momenta[id(parameter)], gradients[id(parameter)]
                momentum.lerp_(gradient, 1 - plan.momentum)
                updates[id(parameter)] = update = orthogonal(gradient.lerp(momentum, plan.momentum))
                step_size = plan.learning_rate * lr_factor
                parameter.data.mul_(1 - step_size * plan.weight_decay).sub_(update, alpha=step_size)
        update_norms.append(norm((gradients | updates).values()))
    weights = {name: p.detach().clone() for name, p in learner.named_parameters()}
    return Trained(weights, gradient_norms, update_norms)


def norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([tensor.flatten().double() for tensor in tensors]).norm())
