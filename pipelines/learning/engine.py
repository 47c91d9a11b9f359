"""The one door to DeepSpeed: two verbs, `backward` and `step`, and the training state by parameter name.

    batch ──backward──► gradient, summed over micro-batches and ranks ──step: Muon, or clip and AdamW──► weights

DeepSpeed divides a gradient by the number of ranks; the loop scales by world / step_tokens, so a step's gradient is
the sum over all valid tokens of the step divided by their count, however the step was cut. Left out on purpose:
DeepSpeed's own checkpoints, which do not fit another number of ranks or another ZeRO stage.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.errors import UserError
from pipelines.learning.lesson import Batch
from pipelines.learning.memory import REDUCE_BUCKET
from pipelines.learning.model import num_parameters, whole_shape
from pipelines.learning.zero import state_access


@dataclass(frozen=True)
class OptimizerPlan:
    """The optimiser, its peak learning rates and its constants.

    Muon (Jordan et al. 2024) adds an orthogonal matrix to a hidden matrix, so its learning rate is in units of spectral
    norm; embeddings, norms and the head are updated by AdamW in both cases. Weight decay applies to matrices alone.
    """

    kind: Literal["muon", "adamw"]
    learning_rate: float  # of the hidden matrices under Muon; of all parameters under AdamW
    adam_learning_rate: float  # under Muon, of the parameters that AdamW updates
    weight_decay: float
    clip_norm: float  # maximum norm of the gradient under AdamW, 0: none. Muon's step does not depend on it: unclipped
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)


class Engine:
    """A learner (a module that turns a batch into a summed loss) under DeepSpeed. Needs an initialised process group.

    hidden_matrices: the parameters that Muon is for. zero_stage: 0 replicates everything on every rank, 1 partitions
    the optimiser's state, 2 the gradients too, 3 the weights too. A learner whose weights are bfloat16 has master
    weights, moments and sums of gradients, over micro-batches and over ranks, in float32; stages 0 and 1 run as 2 then.
    offload: whether the optimiser's state and its step are on the host instead of a GPU. muon_in_bfloat16: whether Muon
    orthogonalises in bfloat16, as its authors do. Parameters that need no gradient stay as they are, and are no part of
    the training state.
    """

    def __init__(
        self,
        learner: nn.Module,
        hidden_matrices: Iterable[nn.Parameter],
        plan: OptimizerPlan,
        *,
        zero_stage: int = 1,
        offload: bool = False,
        muon_in_bfloat16: bool = False,
    ):
        deepspeed = _import_deepspeed()
        optimizer = _optimizer(
            learner, {id(p) for p in hidden_matrices}, plan, "standard" if muon_in_bfloat16 else "gram"
        )
        self._peak_learning_rates = [group["lr"] for group in optimizer.param_groups]
        clip_norm = plan.clip_norm if plan.kind == "adamw" else 0.0
        dtype = next(p.dtype for p in learner.parameters() if p.requires_grad)
        zero_stage = _effective(zero_stage, dtype)
        if offload and zero_stage == 0:
            raise UserError("offload: optimizer needs zero_stage 1, 2 or 3; at 0 DeepSpeed would ignore it")
        config = _config(
            zero_stage, dtype, num_parameters(learner), muon=plan.kind == "muon", clip_norm=clip_norm, offload=offload
        )
        self._engine, *_ = deepspeed.initialize(
            model=_Root(learner), optimizer=optimizer, config=config, dist_init_required=False
        )
        self._learner = learner
        self._zero = state_access(self._engine, deepspeed, zero_stage)
        self.parameters = dict(learner.named_parameters())
        self.trainable = {name: p for name, p in self.parameters.items() if p.requires_grad}
        self.device = self._engine.device

    def backward(self, batch: Batch, *, scale: float, last: bool) -> Tensor:
        """Adds scale × the gradient of the batch's summed loss; the `last` micro-batch of a step also sums over ranks.

        Returns the loss in nats, summed over the batch's labels on this rank, unscaled. Scalar, on the device."""
        self._engine.set_gradient_accumulation_boundary(last)
        total = self._engine(self._learner, batch.to(self.device))
        self._engine.backward(total * scale, scale_wrt_gas=False)
        return total.detach()

    def evaluate(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """function(*args) without a gradient and without dropout; it may use any of the learner's weights as they are
        now. Every rank must call it, since ZeRO 3 gathers weights on the way."""
        training = self._learner.training
        self._learner.eval()
        try:
            with torch.no_grad():
                return self._engine(function, *args)
        finally:
            self._learner.train(training)

    def step(self, lr_factor: float) -> float:
        """Clips (AdamW), updates the weights at lr_factor × the peak learning rates, and zeroes the gradient.

        Returns the norm of the whole gradient before clipping, the same on every rank. From ZeRO 1 on it is inf where
        the gradient is not finite, no weight being updated then, and Muon's matrices count with their orthogonalised
        update."""
        for group, peak in zip(self._engine.optimizer.param_groups, self._peak_learning_rates, strict=True):
            group["lr"] = peak * lr_factor
        return self._zero.step()

    def close(self) -> None:
        """Removes the hooks by which DeepSpeed keeps the engine's memory after its last reference is gone."""
        self._engine.destroy()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's part of the training state: (kind/parameter, float32 tensor on the CPU), the kind being weight,
        momentum_buffer, exp_avg or exp_avg_sq. All ranks together yield every tensor once. Every rank must iterate to
        the end, since tensors are gathered on the way. There is no state before the first step."""
        for number, (name, parameter) in enumerate(self.trainable.items()):
            for kind in _kinds(parameter):
                whole = self._zero.get(parameter, kind)
                if number % dist.get_world_size() == dist.get_rank():
                    yield f"{kind}/{name}", whole.detach().to("cpu", torch.float32, copy=True).contiguous()

    def load_state(self, tensors: Mapping[str, Tensor], *, step: int, padding: Batch) -> None:
        """Restores what `state` yielded after `step` steps, on any number of ranks and at any ZeRO stage.

        padding: a batch without labels; a step on it makes DeepSpeed create the optimiser's state, to be overwritten.
        """
        self.backward(padding, scale=0.0, last=True)
        self.step(0.0)
        for name, parameter in self.trainable.items():
            for kind in _kinds(parameter):
                self._zero.set(parameter, kind, tensors[f"{kind}/{name}"])
        for state in self._zero.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(state["step"], step)

    def live_weights(self, select: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
        """The selected weights by name, whole, on the device, on every rank; each is valid until the next one is
        yielded. Every rank must iterate to the end."""
        for name, parameter in self.parameters.items():
            if select(name):
                with self._zero.gathered(parameter):
                    yield name, parameter.detach()

    def each_weight(
        self, dtype: torch.dtype = torch.float32, *, only_trainable: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Weights by name, whole, in this type (of the float32 masters, where there are), one after another, each valid
        until the next one. Every rank must iterate to the end, since ZeRO gathers them on the way."""
        for name, parameter in (self.trainable if only_trainable else self.parameters).items():
            with self._zero.gathered(parameter) if name not in self.trainable else nullcontext():
                value = self._zero.get(parameter, "weight") if name in self.trainable else parameter
                yield name, value.detach().to(dtype)


@contextmanager
def whole(parameter: Tensor) -> Iterator[Tensor]:
    """A parameter that may be partitioned (`partitioned`), whole, to be changed alike on every rank."""
    if not hasattr(parameter, "ds_id"):
        yield parameter
        return
    with _import_deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
        yield parameter


@contextmanager
def partitioned(zero_stage: int, dtype: torch.dtype) -> Iterator[None]:
    """At ZeRO 3, transformers' from_pretrained inside this context leaves each rank with its part of every weight, so
    that no rank ever holds the whole model. No effect at other stages."""
    if zero_stage < 3:
        yield
        return
    _import_deepspeed()
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    config = HfDeepSpeedConfig(_config(zero_stage, dtype, 2**28, muon=False, clip_norm=0.0, offload=False))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


class _Root(nn.Module):
    """What DeepSpeed wraps: ZeRO 3 gathers a learner's weights only inside the forward of a module above it, whatever
    it is that is computed there."""

    def __init__(self, learner: nn.Module):
        super().__init__()
        self.learner = learner

    def forward(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        return function(*args)


def _kinds(parameter: Any) -> tuple[str, ...]:
    """Kinds of state of a parameter."""
    return ("weight", "momentum_buffer") if parameter.use_muon else ("weight", "exp_avg", "exp_avg_sq")


def _import_deepspeed() -> Any:
    """Imports DeepSpeed, quiet and without what training on a CPU does not use."""
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    import deepspeed
    from deepspeed.runtime import compiler

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not on_gpu:
        # A shared-memory all-reduce for inference only: compiling it with g++ takes 40 s, and training does not use it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Before Muon's kernels are imported, which marks them to be compiled at their first call: 4 to 40 s in every
        # process, for five matrix products that are no faster.
        compiler.compile = lambda: compiler.dummy_decorator
    from deepspeed.runtime.zero.muon import original_muon

    # "gram" would take float16 where a device has instructions for it, and float32 elsewhere: steps off by 1e-3.
    original_muon.ns_compute_dtype = lambda method: torch.bfloat16 if method == "standard" else torch.float32
    return deepspeed


def _effective(zero_stage: int, dtype: torch.dtype) -> int:
    """The stage that runs. With float32 sums of bfloat16 gradients DeepSpeed's stage 1 is another optimiser class, and
    takes more memory than stage 2."""
    return zero_stage if dtype == torch.float32 else max(2, zero_stage)


def _config(
    stage: int, dtype: torch.dtype, numel: int, *, muon: bool, clip_norm: float, offload: bool
) -> dict[str, Any]:
    bucket = min(numel, REDUCE_BUCKET)
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": 2**28}
    # At stages 1 and 2 DeepSpeed 0.19.8's reduce_scatter is an all-reduce too, of a copy of the bucket; and at stage 2,
    # with Muon and float32 sums of bfloat16 gradients, it loses the gradients of AdamW's vectors on every rank but the
    # first. At stage 3 Muon needs whole gradients.
    zero |= {"reduce_scatter": stage == 3 and not muon}
    if stage in (1, 2):
        zero |= {"overlap_comm": False}
    if offload:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    half: dict[str, Any] = {}
    if dtype == torch.bfloat16:  # 16 micro-batches summed in bfloat16 would be 5e-3 off
        half = {
            "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"
        }  # fmt: skip
    return half | {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: batches are cut by the loop
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _optimizer(learner: nn.Module, hidden: set[int], plan: OptimizerPlan, ns_method: str) -> torch.optim.Optimizer:
    """DeepSpeed's Muon for hidden matrices with torch's AdamW for the rest, or AdamW for all.

    ns_method: DeepSpeed's "standard" Newton-Schulz iterates in bfloat16, "gram" in float32."""
    groups: dict[str, list[Tensor]] = {"muon": [], "matrices": [], "vectors": []}
    for parameter in learner.parameters():
        by_muon = plan.kind == "muon" and id(parameter) in hidden and parameter.requires_grad
        cast(Any, parameter).use_muon = by_muon  # where DeepSpeed looks for it
        if not parameter.requires_grad:
            continue
        groups["muon" if by_muon else "matrices" if len(whole_shape(parameter)) >= 2 else "vectors"].append(parameter)
    adam_learning_rate = plan.adam_learning_rate if plan.kind == "muon" else plan.learning_rate
    muon = {"lr": plan.learning_rate, "momentum": plan.momentum, "weight_decay": plan.weight_decay, "use_muon": True}
    adam = {
        "lr": adam_learning_rate,
        "betas": plan.betas,
        "eps": 1e-8,
        "weight_decay": plan.weight_decay,
        "use_muon": False,
    }
    settings = {"muon": muon | {"ns_method": ns_method}, "matrices": adam, "vectors": adam | {"weight_decay": 0.0}}
    param_groups = [{"params": groups[name], **settings[name]} for name in groups if groups[name]]
    if plan.kind == "adamw":
        return torch.optim.AdamW(param_groups, fused=True)
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    optimizer = MuonWithAuxAdam(param_groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})
    # It sorts by size: large matrices would be the first ranks', and many small ones the last's.
    for group in optimizer.param_groups:
        if group["use_muon"]:
            group["params"] = groups["muon"]
    return optimizer
