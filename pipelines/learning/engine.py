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
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.learning.lesson import Batch
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
    the optimiser's state, 2 the gradients too, 3 the weights too. All of it is float32; a learner may multiply in
    bfloat16 inside. muon_in_bfloat16: whether Muon does so when it orthogonalises, as its authors do. Parameters that
    need no gradient stay as they are, and are no part of the training state.
    """

    def __init__(
        self,
        learner: nn.Module,
        hidden_matrices: Iterable[nn.Parameter],
        plan: OptimizerPlan,
        *,
        zero_stage: int = 1,
        muon_in_bfloat16: bool = False,
    ):
        deepspeed = _import_deepspeed()
        optimizer = _optimizer(
            learner, {id(p) for p in hidden_matrices}, plan, "standard" if muon_in_bfloat16 else "gram"
        )
        self._peak_learning_rates = [group["lr"] for group in optimizer.param_groups]
        clip_norm = plan.clip_norm if plan.kind == "adamw" else 0.0
        config = _config(learner, zero_stage, clip_norm)
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
        """function(*args) without a gradient; it may use any of the learner's weights as they are now. Every rank must
        call it, since ZeRO 3 gathers weights on the way."""
        with torch.no_grad():
            return self._engine(function, *args)

    def step(self, lr_factor: float) -> float:
        """Clips (AdamW), updates the weights at lr_factor × the peak learning rates, and zeroes the gradient.

        Returns the norm of the whole gradient before clipping, the same on every rank. From ZeRO 1 on it is inf where
        the gradient is not finite, no weight being updated then, and Muon's matrices count with their orthogonalised
        update."""
        for group, peak in zip(self._engine.optimizer.param_groups, self._peak_learning_rates, strict=True):
            group["lr"] = peak * lr_factor
        return self._zero.step()

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
                self._zero.set(parameter, kind, tensors[f"{kind}/{name}"].to(self.device))
        for state in self._zero.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(state["step"], step)

    def live_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by name, whole, on the device, on every rank; valid until the next one is yielded. Every rank
        must iterate to the end."""
        for name, parameter in self.parameters.items():
            with self._zero.gathered(parameter):
                yield name, parameter.detach()

    def weights(self) -> dict[str, Tensor]:
        """Every weight by name, whole, on the CPU of rank 0; other ranks get an empty dictionary."""
        whole: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            with self._zero.gathered(parameter):
                if dist.get_rank() == 0:
                    whole[name] = parameter.detach().to("cpu", copy=True)
        return whole


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
    from deepspeed.runtime.zero.muon import original_muon

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # "gram" would take float16 where a device has instructions for it, and float32 elsewhere: steps off by 1e-3.
    original_muon.ns_compute_dtype = lambda method: torch.bfloat16 if method == "standard" else torch.float32
    if not on_gpu:
        # A shared-memory all-reduce for inference only: compiling it with g++ takes 40 s, and training does not use it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Muon's kernels are compiled when they are imported: 4 to 8 s for five matrix products that are no faster.
        compiler.compile = lambda: compiler.dummy_decorator
    return deepspeed


def _config(learner: nn.Module, stage: int, clip_norm: float) -> dict[str, Any]:
    numel = sum(p.numel() for p in learner.parameters())
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": min(numel, 2**28), "allgather_bucket_size": 2**28}
    if stage in (1, 2):
        zero |= {"overlap_comm": False}
    if stage == 3:
        zero |= {"reduce_scatter": False}  # Muon needs whole gradients
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: batches are cut by the loop
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
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
        groups["muon" if by_muon else "matrices" if parameter.ndim >= 2 else "vectors"].append(parameter)
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

    return MuonWithAuxAdam(param_groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})
