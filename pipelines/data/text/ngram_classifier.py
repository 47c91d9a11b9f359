"""A linear classifier of short texts on hashed features: logistic regression with tf-idf.

    text ──n-grams of characters, or features of words──► hash buckets ──× idf ÷ √features──► weights · features + bias

Plain numpy with a fixed order of sums: the same texts give the same bytes. The guard and the corpus' quality model
train with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NGRAM_SIZES = (1, 2, 3, 4)  # characters
NUM_BUCKETS = 2**16  # of n-gram hashes; a few thousand short texts hold some 30,000 distinct n-grams
L2 = 2e-4  # penalty ½·L2·‖w‖²; the loss is a weighted mean, in nats
STEPS = 80  # of accelerated gradient descent; more no longer change who is declined

Floats = np.ndarray


def ngram_buckets(text: str, sizes: Sequence[int] = NGRAM_SIZES, num_buckets: int = NUM_BUCKETS) -> np.ndarray:
    """Hash bucket of every n-gram of a canonical text padded with a space at both ends. int64 [S, T+2].

    Row: the n-gram's size; column: the position of its last character. Positions before the first n-gram of a size
    hold num_buckets, which is no bucket."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
    buckets = np.full((len(sizes), len(codes)), num_buckets, np.int64)
    for row, size in enumerate(sizes):
        num_ngrams = len(codes) - size + 1
        if num_ngrams > 0:
            hashes = np.full(num_ngrams, size, np.uint64)
            for offset in range(size):
                hashes = (hashes ^ codes[offset : offset + num_ngrams]) * np.uint64(0x9E3779B97F4A7C15)
                hashes ^= hashes >> np.uint64(29)
            buckets[row, size - 1 :] = (hashes >> np.uint64(7)) % np.uint64(num_buckets)
    return buckets


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


class TfIdfMatrix:
    """Texts as rows of feature counts × idf ÷ √features [N, buckets], sparse.

    rows: the buckets of each text's features; a text without any is a row of zeros. idf [buckets]: log(N ÷ texts with a
    feature of the bucket). Without it the most frequent features, which carry no information, determine the steepest
    direction of the loss, and gradient descent needs far more steps."""

    def __init__(self, rows: Sequence[np.ndarray], num_buckets: int):
        self.num_buckets = num_buckets
        self.lengths = np.array([len(row) for row in rows])  # features of each text [N]
        self.buckets = np.concatenate(rows)  # of all features [sum of lengths]
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])[self.lengths > 0]
        self._scale = 1 / np.sqrt(np.maximum(self.lengths, 1))
        document_counts = np.bincount(np.concatenate([np.unique(row) for row in rows]), minlength=num_buckets)
        self.idf = np.log(len(rows) / np.maximum(document_counts, 1)) * (document_counts > 0)

    def times(self, weights: Floats) -> Floats:
        """Matrix × [buckets] → [N]."""
        sums = np.zeros(len(self.lengths))
        sums[self.lengths > 0] = np.add.reduceat((weights * self.idf)[self.buckets], self._starts)
        return sums * self._scale

    def transposed_times(self, values: Floats) -> Floats:
        """Matrixᵀ × [N] → [buckets]."""
        return np.bincount(self.buckets, np.repeat(values * self._scale, self.lengths), self.num_buckets) * self.idf


def logistic_regression(matrix: TfIdfMatrix, positive: np.ndarray, sample_weight: Floats) -> tuple[Floats, float]:
    """Fits logistic regression with an L2 penalty on the weights; returns weights [buckets] and bias.

    Nesterov's method for strongly convex functions (Nesterov 2004, scheme 2.2.22). positive: bool [N]. sample_weight:
    [N], 1 in sum."""
    lipschitz = 1.1 * 0.25 * largest_eigenvalue(matrix, sample_weight) + L2  # of the gradient, with a margin of 10%
    momentum = (1 - np.sqrt(L2 / lipschitz)) / (1 + np.sqrt(L2 / lipschitz))
    parameters = lookahead = np.zeros(matrix.num_buckets + 1)  # weights, then the bias
    for _ in range(STEPS):
        residuals = sample_weight * (sigmoid(matrix.times(lookahead[:-1]) + lookahead[-1]) - positive)
        gradient = np.append(matrix.transposed_times(residuals) + L2 * lookahead[:-1], residuals.sum())
        previous, parameters = parameters, lookahead - gradient / lipschitz
        lookahead = parameters + momentum * (parameters - previous)
    return parameters[:-1], float(parameters[-1])


def largest_eigenvalue(matrix: TfIdfMatrix, sample_weight: Floats) -> float:
    """Largest eigenvalue of Aᵀ·diag(sample_weight)·A, A being the matrix and a column of ones; 20 power iterations."""
    vector, norm = np.ones(matrix.num_buckets + 1), 1.0
    for _ in range(20):
        vector /= np.linalg.norm(vector)
        values = sample_weight * (matrix.times(vector[:-1]) + vector[-1])
        vector = np.append(matrix.transposed_times(values), values.sum())
        norm = float(np.linalg.norm(vector))
    return norm
