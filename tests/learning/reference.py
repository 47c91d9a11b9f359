"""The optimisers that the engine must equal, written out: no DeepSpeed, one process, whole batches."""

from __future__ import annotations

from typing import cast

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


def train(
    learner: NextTokenLearner, batch: PackedBatch, plan: OptimizerPlan, shares: list[float]
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and gradient norms after len(shares) steps on the same batch."""
    by_muon = {id(p) for p in hidden_matrices(learner.model)} if plan.kind == "muon" else set()
    matrices = [p for p in learner.parameters() if id(p) not in by_muon and p.ndim == 2]
    vectors = [p for p in learner.parameters() if p.ndim == 1]
    rate = plan.adam_rate if plan.kind == "muon" else plan.rate
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=plan.betas,
    )
    momenta = {id(p): torch.zeros_like(p) for p in learner.parameters()}
    norms = []
    for share in shares:
        learner.zero_grad()
        (learner(batch) / batch.num_labels).backward()
        gradients = {id(p): cast(Tensor, p.grad) for p in learner.parameters()}
        norms.append(float(torch.cat([g.flatten().double() for g in gradients.values()]).norm()))
        torch.nn.utils.clip_grad_norm_(learner.parameters(), plan.clip_norm or float("inf"))
        for group in adam.param_groups:
            group["lr"] = rate * share
        adam.step()
        for parameter in learner.parameters():
            if id(parameter) in by_muon:
                momentum, gradient = momenta[id(parameter)], gradients[id(parameter)]
                momentum.lerp_(gradient, 1 - plan.momentum)
                update = orthogonal(gradient.lerp(momentum, plan.momentum))
                parameter.data.mul_(1 - plan.rate * share * plan.weight_decay).sub_(update, alpha=plan.rate * share)
    return {name: p.detach().clone() for name, p in learner.named_parameters()}, norms
