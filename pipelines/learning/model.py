"""Models to train: Llama-shaped ones from scratch, or any causal model from a folder; always classes of transformers,
so that what is saved opens in every tool.

Packed rows have positions that start at 0 in each document, by which attention keeps documents apart (attention.py).
The output embedding is applied by the loss, a chunk of tokens at a time (token_scores.py). A model computes in the
type of its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeModelOutputWithPast

from pipelines.errors import UserError
from pipelines.learning import attention
from pipelines.learning.batch import PackedBatch
from pipelines.learning.losses import next_token_cross_entropy
from pipelines.learning.shapes import READ, ModelShape, Recompute, Role, Size, Weight
from pipelines.learning.token_scores import Head

FOUR_BIT_BLOCK = 64  # weights with one scale; on a CPU rows that are cut in the middle of one come out wrong


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
    model.set_attn_implementation(attention.NAME)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_((2 * size.layers) ** -0.5)
    return model


def from_folder(folder: Path, dtype: torch.dtype = torch.float32, four_bit: bool = False) -> PreTrainedModel:
    """A causal model from a Hugging Face folder, with weights in this type on the CPU. Safetensors only, no code from
    the folder. four_bit: see open_folder. Raises UserError for a folder that cannot be read, or a model that cannot be
    trained."""
    model = open_folder(AutoModelForCausalLM, folder, dtype, four_bit)
    check_layers(model, folder)
    check_head(model, folder)
    return model


def open_folder(
    auto_class: Any, folder: Path, dtype: torch.dtype, four_bit: bool = False, **config: Any
) -> PreTrainedModel:
    """A model by one of transformers' Auto classes, with attention for packed rows. See from_folder.

    four_bit: the weights of linear layers but the head in 4 bits, frozen, for adapters to be trained beside them: NF4
    with scales in 8 bits (Dettmers et al. 2023, QLoRA, section 3), by bitsandbytes. The experts of a mixture stay as
    they are; on a machine with GPUs the model is on one; and at ZeRO 3 every rank holds all of it while it loads."""
    if four_bit:
        config["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["lm_head", "score"],
        )  # fmt: skip
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new score head and an unused output embedding are intended
    try:
        model = auto_class.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            attn_implementation=attention.NAME, **config,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UserError(f"model {folder}: cannot be read as a language model ({error})") from error
    finally:
        transformers.logging.set_verbosity(before)
    _make_rotary_tables_exact(model)
    if four_bit:
        _check_four_bit(model, folder)
    return model


def _check_four_bit(model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError for a layer that bitsandbytes would get wrong; leaves the others able to give gradients."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            layer = cast(Any, module)
            layer.support_avx512bf16_for_cpu = False  # computing without a gradient, it would pack itself for good
            if layer.in_features % FOUR_BIT_BLOCK:
                raise UserError(
                    f"model {folder}: lora.qlora: {name} has {layer.in_features} inputs; expected a multiple of "
                    f"{FOUR_BIT_BLOCK}, by which 4-bit weights share their scale. Train without qlora"
                )


def _make_rotary_tables_exact(model: PreTrainedModel) -> None:
    """Computes the frequencies of rotary embeddings again in float32: DeepSpeed's zero.Init makes every tensor of a
    model in bfloat16, those too, and gradients would be 4% off (other readers of the model have float32)."""
    for module in model.modules():
        if "Rotary" in type(module).__name__ and hasattr(module, "config"):
            exact = type(module)(cast(Any, module).config)
            for name, buffer in exact.named_buffers():
                module.register_buffer(name, buffer, persistent=False)


def head(model: PreTrainedModel) -> Head:
    """What turns the model's hidden states into logits."""
    config = cast(Any, model.config)
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(output_embedding(model), scale, getattr(config, "final_logit_softcapping", None))


def all_logits(model: PreTrainedModel, tokens_BT: Tensor) -> Tensor:
    """Logits of rows that are one document each. float32 [B, T, V]."""
    hidden_BTH = last_hidden(model, tokens_BT)
    return head(model).logits(hidden_BTH)  # the head second: ZeRO 3 gathers a tied matrix for one use at a time


def on_meta(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a config.json, without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def shape_of(model: PreTrainedModel, learner: nn.Module | None = None) -> ModelShape:
    """Names and shapes of a model's weights, and which of them are trained. learner: that has the model, and perhaps
    weights beside it, such as a prefix's."""
    heads = {id(table.weight) for table in (model.get_output_embeddings(),) if table is not None}
    linear = {id(layer.weight) for _, layer in linear_layers(model)}
    embedding = id(cast(nn.Embedding, model.get_input_embeddings()).weight)

    def role_of(parameter: nn.Parameter) -> Role:
        if id(parameter) in heads:
            return "head"
        if id(parameter) == embedding:
            return "embedding"
        if id(parameter) in linear:
            return "linear"
        return "experts" if len(whole_shape(parameter)) == 3 else "other"

    weights = (
        Weight(name, tuple(whole_shape(parameter)), role_of(parameter), parameter.requires_grad)
        for name, parameter in model.named_parameters()
    )
    ours = {id(parameter) for parameter in model.parameters()}
    beside = (
        Weight(name, tuple(whole_shape(parameter)), "embedding", parameter.requires_grad)
        for name, parameter in (learner.named_parameters() if learner is not None else ())
        if id(parameter) not in ours
    )
    config = cast(Any, model.config)  # whose attributes some families have under other names
    read = {name: getattr(config, name) for name in READ if hasattr(config, name)}
    return ModelShape(config.to_dict() | read, (*weights, *beside))


def check_layers(model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError for layers whose attention is neither full nor a sliding window."""
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(model.config, "attention_chunk_size", None):
        raise UserError(f"model {folder}: layers of {', '.join(sorted(kinds)) or 'chunked attention'} are not computed "
                        f"here; expected full attention or a sliding window in every layer")  # fmt: skip


def check_head(model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError where the model's logits are not those of `head`: the chunked loss would train another model
    than the one that is saved.

    Runs the model's own forward on random hidden states and a small random output embedding, without its weights: they
    may be large, or partitioned over ranks. The logits are so large that a soft cap changes them."""
    with torch.device("meta"):
        stub = type(model)(model.config)
    hidden_1TH = torch.randn(1, 8, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    weight_VH = torch.randn(16, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    setattr(stub, stub.base_model_prefix, _Fixed(hidden_1TH))
    linear = nn.Linear(*reversed(weight_VH.shape), bias=cast(nn.Linear, model.get_output_embeddings()).bias is not None)
    linear.weight.data = weight_VH
    stub.set_output_embeddings(linear)
    with torch.no_grad():
        theirs = stub(input_ids=torch.zeros(1, 8, dtype=torch.int64)).logits
        ours = head(model)._replace(weight_VH=weight_VH).logits(hidden_1TH)
    gap = float((ours - theirs).abs().max())
    if not gap <= 1e-3 * float(ours.abs().max()):
        raise UserError(
            f"model {folder}: {type(model).__name__} changes its logits after the output embedding in a way that is "
            f"not known here (a difference of {gap:.2g}); such models cannot be trained; choose another base"
        )


class _Fixed(nn.Module):
    """A body whose last hidden states are fixed."""

    def __init__(self, hidden_1TH: Tensor):
        super().__init__()
        self.hidden_1TH = hidden_1TH

    def forward(self, *_: Any, **__: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=cast(Any, self.hidden_1TH))


def recompute(model: PreTrainedModel, what: Recompute) -> None:
    """Activation checkpointing (Chen et al. 2016): the activations within every decoder layer ("full"), or within every
    layer's attention, are computed again in the backward pass instead of kept."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if what != "none" and not all(what == "full" or hasattr(layer, "self_attn") for layer in layers or [None]):
        raise UserError(f"recompute: {what} does not fit {type(model).__name__}; expected none")
    for layer in layers:
        module: Any = layer if what == "full" else getattr(layer, "self_attn", None)
        if what != "none" and module is not None:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def compile_layers(model: PreTrainedModel) -> None:
    """Compiles every decoder layer (torch.compile) at its first use, but for attention: norms, rotary embeddings and
    activations become a few kernels. To be called before `recompute`."""
    attention.keep_out_of_graphs()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            cast(Any, layer).forward = torch.compile(layer.forward)


def last_hidden(
    model: PreTrainedModel,
    tokens_BT: Tensor,
    positions_BT: Tensor | None = None,
    prefix: attention.Prefix | None = None,
) -> Tensor:
    """The last layer's normalised output [B, T, H]; positions that restart at 0 keep packed documents apart.

    prefix: keys and values in front of each document, whose positions then count from its end; needs positions.
    Raises UserError where a layer of the model would mix documents."""
    body = cast(Any, model.base_model)
    if positions_BT is None:
        documents = attention.Documents.whole_rows(tokens_BT)
    else:
        documents = attention.Documents.of(positions_BT)
    if prefix is not None:
        documents.prefix = prefix
        positions_BT = cast(Tensor, positions_BT) + prefix[0][0].shape[1]
    hidden_BTH = body(
        input_ids=tokens_BT, position_ids=positions_BT, use_cache=False, documents=documents
    ).last_hidden_state
    if documents.num_attended != model.config.num_hidden_layers:
        raise UserError(
            f"{type(model).__name__}: {documents.num_attended} of {model.config.num_hidden_layers} layers keep packed "
            f"documents apart; expected a model whose every layer has attention, such as Llama or Qwen"
        )
    return hidden_BTH


def output_embedding(model: PreTrainedModel) -> Tensor:
    """The matrix [V, H] that turns hidden states into logits."""
    return cast(nn.Linear, model.get_output_embeddings()).weight


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that turns hidden states into scores, of a …ForSequenceClassification."""
    score = cast(Any, model).score
    return score.modules_to_save["default"] if hasattr(score, "modules_to_save") else score  # beside adapters, by PEFT


def scores_of_hidden(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    """The scores of a model with one label. float32 [N], whatever the hidden states' dtype."""
    return (hidden_NH.float() @ score_head(model).weight.float().T).squeeze(-1)


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights of the linear layers between the input and the head."""
    return [cast(nn.Parameter, layer.weight) for _, layer in linear_layers(model)]


def linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """The linear layers between the input and the head (an output embedding, or a reward model's score), with their
    names."""
    heads = (model.get_output_embeddings(), getattr(model, "score", None))
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(module is head for head in heads)
    ]


def expert_parameters(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that stack the experts of a mixture [E, …, …]."""
    return [name for name, parameter in model.named_parameters() if len(whole_shape(parameter)) == 3]


class NextTokenLearner(nn.Module):
    """A causal model and its next-token loss as one module, for an engine."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> Tensor:
        """Cross-entropy of the next token in nats, summed over the batch's labels (`batch.num_labels` of them)."""
        hidden_BTH = last_hidden(self.model, batch.tokens_BT, batch.positions_BT)
        return next_token_cross_entropy(hidden_BTH, head(self.model), batch.labels_BT, batch.weights_BT).total


def file_weights(model: PreTrainedModel, named: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    """Weights by the names, and in the shapes, that they have in the model's folder: transformers stacks the experts of
    a mixture, which are single matrices in files."""
    if not expert_parameters(model):
        return named
    return (item for name, weight in named for item in revert_weight_conversion(model, {name: weight}).items())


def num_parameters(model: nn.Module) -> int:
    """Number of parameters; tied matrices count once, and ZeRO 3's partitioned ones as whole."""
    return sum(whole_shape(p).numel() for p in model.parameters())


def whole_shape(parameter: Tensor) -> torch.Size:
    """A parameter's shape; of one that ZeRO 3 partitions, the whole's, and of one in 4 bits, that of its numbers."""
    packed = getattr(parameter, "quant_state", None)
    return getattr(parameter, "ds_shape", parameter.shape) if packed is None else packed.shape
