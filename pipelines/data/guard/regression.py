"""Logistic regression by L-BFGS, in numpy: the guard's thousands of written pairs in like words need a minimum that is
nearer than a few dozen steps of gradient descent reach (ngram_classifier.py).

The same texts give the same bytes: sums have a fixed order. Those of torch.optim.LBFGS, which is as near to the minimum
after as many iterations, depend on the number of threads.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from pipelines.data.text.ngram_classifier import Floats, TfIdfMatrix, sigmoid

L2 = 2e-4  # penalty ½·L2·‖w‖²; the loss is a weighted mean, in nats. With less, more ordinary text looks unsafe
ITERATIONS = 20  # twice as many change the area under the ROC curve of the written pairs by 0.0005
MEMORY = 8  # latest steps that the curvature is estimated from
SUFFICIENT_DECREASE = 1e-4  # of the slope, for a step to be taken (Armijo)


def logistic_regression(
    matrix: TfIdfMatrix, positive: np.ndarray, sample_weight: Floats, iterations: int = ITERATIONS
) -> tuple[Floats, float]:
    """Fits logistic regression with an L2 penalty on the weights; returns weights [buckets] and bias.

    L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking. positive: bool [N]. sample_weight: [N], 1 in
    sum."""
    parameters = np.zeros(matrix.num_buckets + 1)  # weights, then the bias
    loss, gradient = _loss(matrix, positive, sample_weight, parameters)
    steps: deque[tuple[Floats, Floats]] = deque(maxlen=MEMORY)  # changes of the parameters, and of the gradient
    for _ in range(iterations):
        direction = _direction(steps, gradient)
        slope, size = float(gradient @ direction), 1.0
        while True:
            moved = parameters + size * direction
            new_loss, new_gradient = _loss(matrix, positive, sample_weight, moved)
            if new_loss <= loss + SUFFICIENT_DECREASE * size * slope:
                break
            size /= 2
            if size < 1e-9:  # at the minimum, as near as numbers tell
                return parameters[:-1], float(parameters[-1])
        if (moved - parameters) @ (new_gradient - gradient) > 0:
            steps.append((moved - parameters, new_gradient - gradient))
        parameters, loss, gradient = moved, new_loss, new_gradient
    return parameters[:-1], float(parameters[-1])


def _loss(matrix: TfIdfMatrix, positive: np.ndarray, sample_weight: Floats, parameters: Floats) -> tuple[float, Floats]:
    """The penalised loss in nats, and its gradient [buckets + 1]."""
    weights = parameters[:-1]
    logits = matrix.times(weights) + parameters[-1]
    nats = np.logaddexp(0.0, np.where(positive, -logits, logits))
    residuals = sample_weight * (sigmoid(logits) - positive)
    gradient = np.append(matrix.transposed_times(residuals) + L2 * weights, residuals.sum())
    return float(sample_weight @ nats) + L2 / 2 * float(weights @ weights), gradient


def _direction(steps: deque[tuple[Floats, Floats]], gradient: Floats) -> Floats:
    """Downhill, by the curvature that the latest steps showed (the two loops)."""
    direction, factors = -gradient, []
    for step, change in reversed(steps):
        factors.append(float(step @ direction) / float(step @ change))
        direction = direction - factors[-1] * change
    if steps:
        step, change = steps[-1]
        direction = direction * (float(step @ change) / float(change @ change))
    else:
        direction = direction / np.linalg.norm(direction)
    for (step, change), factor in zip(steps, reversed(factors), strict=True):
        direction = direction + (factor - float(change @ direction) / float(step @ change)) * step
    return direction
