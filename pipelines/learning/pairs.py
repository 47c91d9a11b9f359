"""Training on preference pairs: batches of packed sequences, and the lessons of a reward model and of DPO.

    pairs.arrow ──rows of (seed, step, rank)──► PairBatch ──RewardLearner: scores at last tokens──────► Bradley-Terry
                                                          ──DpoLearner: log-probabilities of replies──► DPO

A row of the loop is a pair. The 2 P sequences of a micro-batch are packed into rows as long as its longest one, with
positions that start at 0 in each (attention keeps them apart, see model.py): short replies cost no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipelines.data.dialogues.tokenized_pairs import PairFile
from pipelines.errors import UserError
from pipelines.learning import model as models
from pipelines.learning.dealing import packing
from pipelines.learning.lesson import Evaluate, Lesson
from pipelines.learning.model import head, last_hidden, scores_of_hidden
from pipelines.learning.pair_losses import bradley_terry, dpo
from pipelines.learning.saving import save, save_proven
from pipelines.learning.token_scores import token_logprobs

NO_INDICES = np.zeros(0, np.int64)


@dataclass(frozen=True)
class PairBatch:
    """P pairs as S = 2 P packed sequences: the chosen ones in order, then the rejected ones. int64 but for weights_M.

    Indices are into the flat B × T. M comparisons of a pair's sequences: token by token from the first that differs to
    the end, the shorter one staying at its last token."""

    tokens_BT: Tensor
    positions_BT: Tensor  # in the sequence, from 0; padding: 0
    last_index_S: Tensor  # of each sequence's last token
    prediction_index_N: Tensor  # where each token of a reply is predicted: one before the token
    reply_tokens_N: Tensor
    sequence_N: Tensor  # the sequence of each: 0 … S-1
    chosen_index_M: Tensor  # of the chosen sequence's token in a comparison
    rejected_index_M: Tensor  # of the rejected sequence's
    weights_M: Tensor  # float32: 1 ÷ number of comparisons of the pair
    rows_P: Tensor  # row of each pair in the file

    @property
    def num_labels(self) -> int:
        """Pairs."""
        return len(self.rows_P)

    @property
    def num_predicted(self) -> int:
        """Tokens of replies, under DPO; a reward model predicts none, having no output embedding."""
        return len(self.reply_tokens_N)

    def to(self, device: str | torch.device) -> PairBatch:
        return PairBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class PairRows:
    """Random access to pairs as batches."""

    def __init__(self, file: Path):
        self.pairs = PairFile(file)
        self.tokens_N: np.ndarray | None = self.pairs.lengths_N2.sum(axis=1)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def phases(self) -> tuple[int, ...]:
        return (len(self.pairs),)

    @property
    def row_tokens(self) -> float:
        """Tokens of a pair, both sequences, on average."""
        return float(self.pairs.lengths_N2.sum(axis=1).mean())

    def batch_tokens(self, rows: np.ndarray) -> int:
        _, num_rows, width = packing(self.pairs.lengths_N2[rows].ravel().tolist())
        return num_rows * width

    def padding(self) -> PairBatch:
        """A batch without pairs: two tokens that no loss uses."""
        return pack([], [], np.zeros(0, np.int64))

    def read(self, rows: np.ndarray) -> PairBatch:
        """These pairs, in this order; padding for no rows, since every rank takes part in every backward pass."""
        pairs = [self.pairs[int(row)] for row in rows]
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        return pack(sequences, [pair.prompt_tokens for pair in pairs] * 2, rows)


def pack(sequences: Sequence[np.ndarray], prompt_tokens: Sequence[int], rows: np.ndarray) -> PairBatch:
    """Packs sequences into rows: see packing. prompt_tokens: of each sequence, before its reply; rows: of the pairs in
    their file."""
    lengths = [len(sequence) for sequence in sequences]
    starts, num_rows, width = packing(lengths)
    tokens, positions = np.zeros((2, num_rows * width), np.int64)
    replies: list[np.ndarray] = []  # indices of each reply's tokens
    for start, sequence, num_prompt in zip(starts, sequences, prompt_tokens, strict=True):
        end = start + len(sequence)
        tokens[start:end], positions[start:end] = sequence, np.arange(len(sequence))
        replies.append(np.arange(start + num_prompt, end))
    index_N = np.concatenate([NO_INDICES, *replies])
    columns = {
        "tokens_BT": tokens.reshape(-1, width),
        "positions_BT": positions.reshape(-1, width),
        "last_index_S": np.asarray(starts, np.int64) + np.asarray(lengths, np.int64) - 1,
        "prediction_index_N": index_N - 1,
        "reply_tokens_N": tokens[index_N],
        "sequence_N": np.repeat(np.arange(len(replies)), list(map(len, replies))),
        "rows_P": np.asarray(rows, np.int64),
    } | comparisons(tokens, replies)
    return PairBatch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def comparisons(tokens: np.ndarray, replies: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Indices and weights of the comparisons of each pair (see PairBatch). replies: indices of the chosen replies'
    tokens, then of the rejected ones', in the flat tokens."""
    chosen_M, rejected_M, weights_M = [NO_INDICES], [NO_INDICES], [np.zeros(0, np.float32)]
    num_pairs = len(replies) // 2
    for pair in zip(replies[:num_pairs], replies[num_pairs:], strict=True):
        longest = max(map(len, pair))
        chosen, rejected = (np.pad(indices, (0, longest - len(indices)), mode="edge") for indices in pair)
        first = int(np.argmax(tokens[chosen] != tokens[rejected]))
        chosen_M.append(chosen[first:])
        rejected_M.append(rejected[first:])
        weights_M.append(np.full(longest - first, 1 / (longest - first), np.float32))
    columns = {"chosen_index_M": chosen_M, "rejected_index_M": rejected_M, "weights_M": weights_M}
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def hidden_states(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """The last layer's output for every token, rows end to end [B·T, H]."""
    return last_hidden(model, batch.tokens_BT, batch.positions_BT).flatten(0, 1)


def rewards(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """A reward model's score at the last token of each sequence. float32 [S]."""
    return scores(model, batch).index_select(0, batch.last_index_S)


def scores(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """A reward model's score at every token. float32 [B·T]."""
    return scores_of_hidden(model, hidden_states(model, batch))


def reply_logprobs(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """A causal model's log-probability of each reply, summed over its tokens. float32 [S], nats."""
    hidden_NH = hidden_states(model, batch).index_select(0, batch.prediction_index_N)
    logprobs_N = token_logprobs(hidden_NH, head(model), batch.reply_tokens_N)
    return logprobs_N.new_zeros(len(batch.last_index_S)).index_add(0, batch.sequence_N, logprobs_N)


class RewardLearner(nn.Module):
    """A reward model and its loss.

    every_token: compare the sequences at every token from the first that differs and take a pair's mean, as
    DeepSpeed-Chat does (Yao et al. 2023, arXiv 2308.01320); otherwise at their last tokens alone. Where a single token
    makes a reply wrong, the loss then applies at that token, not only through the last one."""

    def __init__(self, model: PreTrainedModel, *, every_token: bool):
        super().__init__()
        self.model = model
        self.every_token = every_token

    def forward(self, batch: PairBatch) -> Tensor:
        """Bradley-Terry, summed over pairs."""
        scores_N = scores(self.model, batch)
        if not self.every_token:
            return bradley_terry(*scores_N.index_select(0, batch.last_index_S).chunk(2))
        chosen_M = scores_N.index_select(0, batch.chosen_index_M)
        rejected_M = scores_N.index_select(0, batch.rejected_index_M)
        return bradley_terry(chosen_M, rejected_M, batch.weights_M)


class DpoLearner(nn.Module):
    """A policy and its loss. reference_N2, to be set before the first loss: log-probabilities of all pairs' replies,
    chosen and rejected, under the frozen reference, on the CPU."""

    reference_N2: Tensor

    def __init__(self, model: PreTrainedModel, *, beta: float, label_smoothing: float):
        super().__init__()
        self.model = model
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, batch: PairBatch) -> Tensor:
        """DPO, summed over pairs."""
        chosen_P, rejected_P = reply_logprobs(self.model, batch).chunk(2)
        reference_2P = self.reference_N2[batch.rows_P.cpu()].T.to(chosen_P.device)
        return dpo(chosen_P, rejected_P, *reference_2P, beta=self.beta, label_smoothing=self.label_smoothing)


def reward_lesson(model: PreTrainedModel, rows: PairRows, *, every_token: bool, dtype: torch.dtype) -> Lesson:
    """The lesson of a reward model: Bradley-Terry on the scores of both replies, without dropout. dtype: of the saved
    weights."""
    learner = RewardLearner(model, every_token=every_token).eval()
    return Lesson(learner, model, "model", rows, partial(save, model), dtype)


def dpo_lesson(
    model: PreTrainedModel, rows: PairRows, *, beta: float, label_smoothing: float, dtype: torch.dtype, batch_pairs: int
) -> Lesson:
    """The lesson of direct preference optimisation, without dropout; the initial model is the reference.

    dtype: of the saved weights; batch_pairs: pairs of a batch when the reference scores them."""
    learner = DpoLearner(model, beta=beta, label_smoothing=label_smoothing).eval()

    def before(evaluate: Evaluate) -> None:
        learner.reference_N2 = pair_scores(evaluate, reply_logprobs, model, rows, batch_pairs=batch_pairs)

    save = partial(save_proven, model)
    return Lesson(learner, model, "model", rows, save, dtype, logits_again=True, before=before)


def new_reward_model(
    folder: Path, *, seed: int, pad_id: int | None, dtype: torch.dtype = torch.float32, four_bit: bool = False
) -> PreTrainedModel:
    """A model with a new score head on the body of the causal model in a folder; the same bits for the same seed.

    pad_id: a token that ends no sequence; transformers takes the score at the last token that is not this one."""
    torch.manual_seed(seed)
    model = models.open_folder(AutoModelForSequenceClassification, folder, dtype, four_bit, num_labels=1)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(f"model {folder}: {type(model).__name__} has no score head on its last token; expected a "
                        f"decoder such as Llama or Qwen")  # fmt: skip
    model.config.pad_token_id = pad_id
    model.config.tie_word_embeddings = False  # there is no output embedding to tie
    return model


def open_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A reward model from its folder, with weights in this type on the CPU."""
    return models.open_folder(AutoModelForSequenceClassification, folder, dtype)


def pair_scores(
    evaluate: Evaluate,
    score: Callable[[PreTrainedModel, PairBatch], Tensor],
    model: PreTrainedModel,
    rows: PairRows,
    *,
    batch_pairs: int,
) -> Tensor:
    """The score of both sequences of each pair, each rank of the process group computing a part.

    score: `rewards` or `reply_logprobs`, called as evaluate(score, model, batch), as often on every rank. float32
    [N, 2] on the CPU, the same on every rank: chosen, rejected. Pairs of similar length form a batch, so that there is
    no padding."""
    device = next(model.parameters()).device
    rank, world = dist.get_rank(), dist.get_world_size()
    order = np.argsort(rows.pairs.lengths_N2.max(axis=1), kind="stable")
    scores_N2 = torch.zeros(len(rows), 2, device=device)
    for first in range(0, len(rows), batch_pairs * world):
        batch = rows.read(order[first : first + batch_pairs * world][rank::world]).to(device)
        scores_N2[batch.rows_P] = evaluate(score, model, batch).reshape(2, len(batch.rows_P)).T
        evaluate.progress(min(first + batch_pairs * world, len(rows)), len(rows))
    dist.all_reduce(scores_N2)
    return scores_N2.cpu()
