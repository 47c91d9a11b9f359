"""Prefix tuning and P-tuning v2: keys and values in front of every document, the only weights that are trained.

    places 0 … P-1 ──embedding [──MLP]──► keys, values of each layer [K, P, C] ──┐
    packed rows ──frozen model, attending to them and to its document──► next-token loss

Li and Liang 2021 (prefix tuning), with the reparametrisation by an MLP of section 4.3 where there is a projection; Liu
et al. 2022 (P-tuning v2). Such vectors cannot be merged into weights, so what is saved is PEFT's adapter alone, with
the MLP's result in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.learning import adapters
from pipelines.learning import model as models
from pipelines.learning.attention import Prefix
from pipelines.learning.batch import PackedBatch, PackedRows
from pipelines.learning.lesson import Evaluate, Lesson
from pipelines.learning.losses import next_token_cross_entropy
from pipelines.learning.saving import Weights


class PrefixLearner(nn.Module):
    """A frozen causal model behind a trained prefix, and its next-token loss, for an engine."""

    def __init__(self, model: PreTrainedModel, encoder: nn.Module, config: Any):
        super().__init__()
        self.model, self.encoder = model, encoder
        self.tokens: int = config.num_virtual_tokens
        self.heads: int = config.num_attention_heads  # of keys and values
        self.head_columns: int = config.token_dim // config.num_attention_heads

    def prefix(self) -> Prefix:
        """Keys and values of each layer, as PEFT lays them out."""
        flat_PD = self.encoder(torch.arange(self.tokens, device=next(self.encoder.parameters()).device))
        each_L2KPC = flat_PD.view(self.tokens, -1, 2, self.heads, self.head_columns).permute(1, 2, 3, 0, 4)
        return [(key_KPC, value_KPC) for key_KPC, value_KPC in each_L2KPC]

    def forward(self, batch: PackedBatch) -> Tensor:
        """Cross-entropy of the next token in nats, summed over the batch's labels."""
        return next_token_loss(self.model, batch, self.prefix())


def next_token_loss(model: PreTrainedModel, batch: PackedBatch, prefix: Prefix | None) -> Tensor:
    """Cross-entropy of the next token in nats, summed over the batch's labels; with a prefix, or None."""
    hidden_BTH = models.last_hidden(model, batch.tokens_BT, batch.positions_BT, prefix)
    return next_token_cross_entropy(hidden_BTH, models.head(model), batch.labels_BT, batch.weights_BT).total


def lesson(
    open_model: Callable[[torch.dtype], PreTrainedModel],
    rows: PackedRows,
    held_out: PackedRows | None,
    *,
    tokens: int,
    projection: int | None,
    seed: int,
    dtype: torch.dtype,
    batch_rows: int,
) -> Lesson:
    """Predicting the next token of packed rows behind a prefix of `tokens`, which is all that is trained and saved.

    held_out: rows whose loss is measured with the final prefix, and without any. projection: see
    adapters.attach_prefix; batch_rows: of a pass over the held-out rows."""
    adapted = adapters.attach_prefix(open_model(dtype), tokens, projection, seed)
    model = cast(PreTrainedModel, adapted.get_base_model())
    learner = PrefixLearner(model, cast(Any, adapted).prompt_encoder["default"], adapted.active_peft_config)
    losses: dict[str, float] = {}

    def device() -> torch.device:
        return next(model.parameters()).device

    def before(evaluate: Evaluate) -> None:
        if held_out is not None:
            plain = partial(next_token_loss, model, prefix=None)
            losses["heldout/loss_nats_before"] = held_out_loss(evaluate, plain, held_out, batch_rows, device())

    def after(evaluate: Evaluate) -> dict[str, float]:
        if held_out is None:
            return {}
        return losses | {"heldout/loss_nats": held_out_loss(evaluate, learner, held_out, batch_rows, device())}

    def save(weights: Weights, folder: Path) -> None:
        encoder = type(learner.encoder)(adapted.active_peft_config)  # whole, where ZeRO 3 partitions the learner's
        encoder.load_state_dict(dict(weights))
        cast(Any, adapted).prompt_encoder["default"] = encoder
        adapters.save_adapter(adapted, folder)

    return Lesson(
        learner.train(), model, "encoder", rows, save, torch.float32, only_trainable=True, before=before, after=after
    )


def held_out_loss(
    evaluate: Evaluate, loss: Callable[[PackedBatch], Tensor], rows: PackedRows, batch_rows: int, device: torch.device
) -> float:
    """Mean nats of the labels of all rows, each rank of the process group computing a part."""
    rank, world = dist.get_rank(), dist.get_world_size()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for first in range(0, len(rows), batch_rows * world):
        indices = np.arange(first, min(first + batch_rows * world, len(rows)))
        batch = rows.read(indices[rank::world]).to(device)  # padding for none: every rank evaluates as often
        sums += torch.stack([evaluate(loss, batch).double(), torch.tensor(float(batch.num_labels), device=device)])
        evaluate.progress(int(indices[-1]) + 1, len(rows))
    dist.all_reduce(sums)
    return float(sums[0] / sums[1].clamp(min=1))
