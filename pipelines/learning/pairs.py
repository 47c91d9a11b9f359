"""Learning from pairs of replies: batches of packed sequences, a reward model's lesson and DPO's.

    pairs.arrow ──rows of (seed, step, rank)──► PairBatch ──RewardLearner: scores at the ends────────► Bradley-Terry
                                                          ──DpoLearner: log-probabilities of replies──► DPO

A row of the loop is a pair. The 2 P sequences of a micro-batch lie end to end in rows as long as its longest one, with
positions that start at 0 in each (attention keeps them apart, see model.py): short replies cost no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipelines.data.dialogues.tokenized_pairs import PairFile
from pipelines.errors import UserError
from pipelines.learning import model as models
from pipelines.learning.lesson import Lesson, save_proven
from pipelines.learning.model import autocast, last_hidden, output_embedding, scores_of_hidden
from pipelines.learning.pair_losses import bradley_terry, dpo
from pipelines.learning.token_scores import token_logprobs


@dataclass(frozen=True)
class PairBatch:
    """P pairs as S = 2 P packed sequences: the chosen sides in order, then the rejected ones. int64 but for shares_M.

    Places count in the flat B × T. M comparisons of a pair's sides: token by token from the first that differs to the
    end; a side that is over waits at its end."""

    tokens_BT: Tensor
    positions_BT: Tensor  # place in its sequence, from 0; padding: 0
    ends_S: Tensor  # place of each sequence's last token
    places_N: Tensor  # where each token of a reply is predicted: the place before it
    actions_N: Tensor  # the tokens of the replies
    owners_N: Tensor  # whose each is: 0 … S-1
    chosen_at_M: Tensor  # the place of the chosen side's token
    rejected_at_M: Tensor  # and of the rejected one's
    shares_M: Tensor  # float32: 1 ÷ how many comparisons its pair has
    numbers_P: Tensor  # which pairs these are

    @property
    def num_labels(self) -> int:
        """Pairs."""
        return len(self.numbers_P)

    @property
    def num_predicted(self) -> int:
        """Tokens of replies, under DPO; a reward model predicts none, having no output embedding."""
        return len(self.actions_N)

    def to(self, device: str | torch.device) -> PairBatch:
        return PairBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class PairRows:
    """Random access to pairs as batches."""

    def __init__(self, file: Path):
        self.pairs = PairFile(file)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def row_tokens(self) -> float:
        """Tokens of a pair, both sequences, on average."""
        return float(self.pairs.lengths_N2.sum(axis=1).mean())

    def padding(self) -> PairBatch:
        """No pair: two tokens that nobody looks at."""
        return pack([], [], np.zeros(0, np.int64))

    def read(self, rows: np.ndarray) -> PairBatch:
        """These pairs, in this order; none give padding, since every rank takes part in every backward pass."""
        found = [self.pairs[int(row)] for row in rows]
        sequences = [pair.chosen for pair in found] + [pair.rejected for pair in found]
        return pack(sequences, [pair.prompt_tokens for pair in found] * 2, rows)


def pack(sequences: Sequence[np.ndarray], prompt_tokens: Sequence[int], numbers: np.ndarray) -> PairBatch:
    """Lays sequences end to end in rows as long as the longest of them: the longest first, each into the first row
    that has room (first-fit decreasing)."""
    lengths = [len(sequence) for sequence in sequences]
    width = max(lengths, default=2)
    used: list[int] = []  # tokens in each row
    starts = [0] * len(sequences)
    for number in sorted(range(len(sequences)), key=lambda number: -lengths[number]):
        row = next((row for row, there in enumerate(used) if there + lengths[number] <= width), len(used))
        if row == len(used):
            used.append(0)
        starts[number] = row * width + used[row]
        used[row] += lengths[number]
    tokens, positions = np.zeros((2, max(len(used), 1) * width), np.int64)
    replies: list[np.ndarray] = []  # the places of each reply's tokens
    for start, sequence, prompt in zip(starts, sequences, prompt_tokens, strict=True):
        end = start + len(sequence)
        tokens[start:end], positions[start:end] = sequence, np.arange(len(sequence))
        replies.append(np.arange(start + prompt, end))
    at_N = joined(replies)
    columns = {
        "tokens_BT": tokens.reshape(-1, width),
        "positions_BT": positions.reshape(-1, width),
        "ends_S": np.asarray(starts, np.int64) + np.asarray(lengths, np.int64) - 1,
        "places_N": at_N - 1,
        "actions_N": tokens[at_N],
        "owners_N": np.repeat(np.arange(len(replies)), list(map(len, replies))),
        "numbers_P": np.asarray(numbers, np.int64),
    } | comparisons(tokens, replies)
    return PairBatch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def comparisons(tokens: np.ndarray, replies: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Where the sides of each pair are compared (see PairBatch). replies: places of the chosen replies' tokens, then of
    the rejected ones', in the flat tokens."""
    found: dict[str, list[np.ndarray]] = {"chosen_at_M": [], "rejected_at_M": [], "shares_M": []}
    half = len(replies) // 2
    for sides in zip(replies[:half], replies[half:], strict=True):
        longest = max(map(len, sides))
        chosen, rejected = (np.pad(side, (0, longest - len(side)), mode="edge") for side in sides)
        first = int(np.argmax(tokens[chosen] != tokens[rejected]))
        found["chosen_at_M"].append(chosen[first:])
        found["rejected_at_M"].append(rejected[first:])
        found["shares_M"].append(np.full(longest - first, 1 / (longest - first)))
    columns = {name: joined(parts) for name, parts in found.items()}
    return columns | {"shares_M": columns["shares_M"].astype(np.float32)}


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def hidden_states(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """The last layer's output for every token, rows end to end [B·T, H]."""
    return last_hidden(model, batch.tokens_BT, batch.positions_BT).flatten(0, 1)


def rewards(model: PreTrainedModel, batch: PairBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    """A reward model's score at the end of each sequence. float32 [S]."""
    return scores(model, batch, dtype).index_select(0, batch.ends_S)


def scores(model: PreTrainedModel, batch: PairBatch, dtype: torch.dtype) -> Tensor:
    """A reward model's score at every token. float32 [B·T]."""
    with autocast(batch.tokens_BT, dtype):
        hidden_NH = hidden_states(model, batch)
    return scores_of_hidden(model, hidden_NH)


def reply_logprobs(model: PreTrainedModel, batch: PairBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    """A causal model's log-probability of each reply, summed over its tokens. float32 [S], nats."""
    with autocast(batch.tokens_BT, dtype):
        hidden_NH = hidden_states(model, batch).index_select(0, batch.places_N)
        logprobs_N = token_logprobs(hidden_NH, output_embedding(model), batch.actions_N)
    return logprobs_N.new_zeros(len(batch.ends_S)).index_add(0, batch.owners_N, logprobs_N)


class RewardLearner(nn.Module):
    """A reward model and its loss. dtype: of the matrix products (as in model.py).

    every_token: compare the sides at every token from the first that differs and take a pair's mean, as DeepSpeed-Chat
    does (Yao et al. 2023, arXiv 2308.01320); otherwise at their ends alone. What makes a reply wrong is often one token
    of it, and the loss then reaches it by a shorter way."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, every_token: bool):
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.every_token = every_token

    def forward(self, batch: PairBatch) -> Tensor:
        """Bradley-Terry, summed over pairs."""
        scores_N = scores(self.model, batch, self.dtype)
        if not self.every_token:
            return bradley_terry(*scores_N.index_select(0, batch.ends_S).chunk(2))
        chosen_M, rejected_M = (
            scores_N.index_select(0, batch.chosen_at_M),
            scores_N.index_select(0, batch.rejected_at_M),
        )
        return bradley_terry(chosen_M, rejected_M, batch.shares_M)


class DpoLearner(nn.Module):
    """A policy and its loss. reference_N2: log-probabilities of all pairs' replies under the frozen reference, chosen
    and rejected, on the CPU."""

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, reference_N2: Tensor, *, beta: float, label_smoothing: float
    ):
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.reference_N2 = reference_N2
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, batch: PairBatch) -> Tensor:
        """DPO, summed over pairs."""
        chosen_P, rejected_P = reply_logprobs(self.model, batch, self.dtype).chunk(2)
        reference_2P = self.reference_N2[batch.numbers_P.cpu()].T.to(chosen_P.device)
        return dpo(chosen_P, rejected_P, *reference_2P, beta=self.beta, label_smoothing=self.label_smoothing)


def reward_lesson(model: PreTrainedModel, rows: PairRows, dtype: torch.dtype, *, every_token: bool) -> Lesson:
    """Which of two replies is preferred, as a reward for each."""
    learner = RewardLearner(model, dtype, every_token=every_token)
    return Lesson(learner, model, "model", rows, partial(models.save, model))


def dpo_lesson(
    model: PreTrainedModel,
    rows: PairRows,
    dtype: torch.dtype,
    reference_N2: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> Lesson:
    """Preferring what was preferred, while staying near the reference."""
    learner = DpoLearner(model, dtype, reference_N2, beta=beta, label_smoothing=label_smoothing)
    return Lesson(learner, model, "model", rows, partial(save_proven, model))


def new_reward_model(folder: Path, *, seed: int, pad_id: int | None) -> PreTrainedModel:
    """A model with a new score head on the body of the causal model in a folder; the same bits for the same seed.

    pad_id: a token that ends no sequence; transformers takes the score at the last token that is not this one."""
    torch.manual_seed(seed)
    model = _sequence_classifier(folder, num_labels=1)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(f"model {folder}: {type(model).__name__} has no score head on its last token; expected a "
                        f"decoder such as Llama or Qwen")  # fmt: skip
    model.config.pad_token_id = pad_id
    model.config.tie_word_embeddings = False  # there is no output embedding to tie
    return model


def open_reward_model(folder: Path) -> PreTrainedModel:
    """A reward model from its folder, in float32 on the CPU."""
    return _sequence_classifier(folder)


def _sequence_classifier(folder: Path, **config: int) -> PreTrainedModel:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a missing head and one too many are meant
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False, **config
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model {folder}: cannot be read as a model that scores sequences ({error})") from error
    finally:
        transformers.logging.set_verbosity(before)


def each_side(
    model: PreTrainedModel,
    figure: Callable[[PreTrainedModel, PairBatch], Tensor],
    rows: PairRows,
    *,
    device: str,
    pairs_at_once: int,
) -> Tensor:
    """A figure of each side of each pair, by all ranks of the process group, each its share, without gradients.

    figure: `rewards` or `reply_logprobs`; model: on the CPU, where it is again afterwards. float32 [N, 2] on the CPU,
    the same on every rank: chosen, rejected. Pairs of like length go together, so that nothing is padded."""
    order = np.argsort(rows.pairs.lengths_N2.max(axis=1), kind="stable")
    found_N2 = torch.zeros(len(rows), 2, device=device)
    own = order[dist.get_rank() :: dist.get_world_size()]
    module = cast(nn.Module, model).to(device).eval()
    with torch.no_grad():
        for first in range(0, len(own), pairs_at_once):
            batch = rows.read(own[first : first + pairs_at_once]).to(device)
            found_N2[batch.numbers_P] = figure(model, batch).view(2, -1).T
    dist.all_reduce(found_N2)
    module.to("cpu")
    return found_N2.cpu()
