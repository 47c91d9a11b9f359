"""Models to train: Llama-shaped ones from scratch, or any causal model from a folder; always classes of transformers,
so that what is saved opens in every tool.

Packed rows go through transformers as they are: with positions that start at 0 in each document and no attention mask,
its mask builder keeps documents apart (block-diagonal and causal), for every attention implementation. The output
embedding is applied by the loss, a chunk of tokens at a time (token_scores.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pipelines.errors import UserError
from pipelines.learning.batch import PackedBatch
from pipelines.learning.losses import next_token_cross_entropy


@dataclass(frozen=True)
class Size:
    """A Llama shape. Heads are 64 wide where the model is not tiny."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int  # width of the gated feed-forward layer
    tied: bool = True  # one matrix as input and output embedding: at 4,096 × 192 it is 37% of the 2m model


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Wide and shallow where a CPU trains: matrices of 192 columns run near the GEMM peak, narrower ones do not.
SIZES: Mapping[str, Size] = {
    "micro": Size(64, 2, 2, 2, 128),
    "2m": Size(192, 3, 3, 3, 512),
    "6m": Size(256, 6, 4, 4, 704),
    "14m": Size(384, 7, 6, 6, 1024),
    "36m": Size(512, 10, 8, 8, 1536),
    "125m": Size(768, 12, 12, 12, 2048),
    "350m": Size(1024, 24, 16, 8, 2816),
    "1b": Size(2048, 16, 32, 8, 8192, tied=False),
}


def dtype_of(name: str, device: str) -> torch.dtype:
    """The dtype of this name; "auto": bfloat16 on a GPU, and float32 on a CPU, so that a gradient does not depend on
    the number of workers (1e-5)."""
    if name != "auto":
        return DTYPES[name]
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def from_scratch(
    size: Size, *, vocabulary: int, length: int, seed: int, special: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """A new Llama in float32 on the CPU, the same bits for the same arguments.

    length: tokens of a row, which becomes the model's context; special: bos_token_id, eos_token_id and pad_token_id.
    Weights are normal with a standard deviation of 0.02; those that write into the residual stream are
    scaled by 1/√(2·layers), so that its variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3).
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=length,
        tie_word_embeddings=size.tied,
        dtype="float32",
        **(special or {}),
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_((2 * size.layers) ** -0.5)
    return model


def from_folder(folder: Path) -> PreTrainedModel:
    """A causal model from a Hugging Face folder, in float32 on the CPU. Safetensors only, no code from the folder."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model {folder}: cannot be read as a causal language model ({error})") from error
    _check_head(model, folder)
    return model


def _check_head(model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError where logits are more than hidden @ output embedding (soft caps, biases, scaled logits): the
    chunked loss would train another model than the one that is saved."""
    ids = torch.arange(8)[None] % model.config.vocab_size
    with torch.no_grad():
        theirs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits, -1)
        ours = torch.log_softmax(last_hidden(model, ids) @ output_embedding(model).T, -1)
    if not torch.allclose(ours, theirs, atol=1e-4):
        raise UserError(
            f"model {folder}: {type(model).__name__} changes its logits after the output embedding (a difference of "
            f"{(ours - theirs).abs().max():.2g} nats); such models cannot be trained; choose another base"
        )


def autocast(tensor: Tensor, dtype: torch.dtype) -> torch.autocast:
    """Matrix products in this dtype on the tensor's device; float32: as they are."""
    return torch.autocast(tensor.device.type, dtype, enabled=dtype != torch.float32)


def last_hidden(model: PreTrainedModel, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
    """The last layer's normalised output [B, T, H]; positions that restart at 0 keep packed documents apart."""
    body = cast(Any, model.base_model)
    return body(input_ids=tokens_BT, position_ids=positions_BT, use_cache=False).last_hidden_state


def output_embedding(model: PreTrainedModel) -> Tensor:
    """The matrix [V, H] that turns hidden states into logits."""
    return cast(nn.Linear, model.get_output_embeddings()).weight


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that turns hidden states into scores, of a …ForSequenceClassification."""
    return cast(nn.Linear, cast(Any, model).score)


def scores_of_hidden(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    """The scores of a model with one label. float32 [N], whatever the hidden states' dtype."""
    return (hidden_NH.float() @ score_head(model).weight.float().T).squeeze(-1)


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights of linear layers between the input and the head: an output embedding, or a reward model's score."""
    heads = (model.get_output_embeddings(), getattr(model, "score", None))
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and not any(m is head for head in heads)]
    return [cast(nn.Parameter, m.weight) for m in linear]


class NextTokenLearner(nn.Module):
    """A causal model and its next-token loss as one module, for an engine.

    dtype: of the matrix products. Weights, gradients and sums stay in float32 in any case (mixed precision,
    Micikevicius et al. 2018, by torch.autocast), so that optimisers and checkpoints have one type.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, batch: PackedBatch) -> Tensor:
        """Cross-entropy of the next token in nats, summed over the batch's labels (`batch.num_labels` of them)."""
        with autocast(batch.tokens_BT, self.dtype):
            hidden_BTH = last_hidden(self.model, batch.tokens_BT, batch.positions_BT)
            return next_token_cross_entropy(hidden_BTH, output_embedding(self.model), batch.labels_BT).total


def save(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes model.safetensors, config.json and generation_config.json: the same bytes for the same weights."""
    model.save_pretrained(folder, state_dict=weights, safe_serialization=True)


def num_parameters(model: nn.Module) -> int:
    """Number of parameters; tied matrices count once, and ZeRO 3's partitioned ones as whole."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
