"""The one door to DeepSpeed: two verbs, `backward` and `step`, and the training state by parameter name.

    batch ──backward──► gradient, summed over micro-batches and ranks ──step: clip, then Muon or AdamW──► weights

DeepSpeed divides a gradient by the number of ranks; the loop asks for sum × world / step_tokens, so what is learnt is
the sum over all valid tokens of the step divided by their count, however the step was cut. Left out on purpose:
DeepSpeed's own checkpoints, which do not fit another number of ranks or another ZeRO stage, and its clipping, which
comes after Muon has turned the gradient into an update (see _Shared).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.learning.batch import PackedBatch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class OptimizerPlan:
    """Peak learning rates and what goes with them.

    Muon (Jordan et al. 2024) moves a hidden matrix by an orthogonal one, so its rate is in units of spectral norm;
    embeddings, norms and the head are AdamW's in both cases. Only matrices decay.
    """

    kind: Literal["muon", "adamw"]
    rate: float  # of the hidden matrices under Muon; of everything under AdamW
    adam_rate: float  # of what Muon leaves to AdamW
    weight_decay: float
    clip_norm: float  # of the whole gradient, before any optimiser sees it; 0: never
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)


class Engine:
    """A learner (a module that turns a batch into a summed loss) under DeepSpeed. Needs an initialised process group.

    hidden_matrices: the parameters that Muon is for. zero_stage: 0 keeps everything on every rank, 1 shares the
    optimiser's state out, 2 the gradients too, 3 the weights too. With bfloat16 weights and gradient sums are also kept
    in float32; that takes stage 2 or more, so less is raised to it.
    """

    def __init__(
        self,
        learner: nn.Module,
        hidden_matrices: Iterable[nn.Parameter],
        plan: OptimizerPlan,
        *,
        zero_stage: int = 1,
        dtype: str = "float32",
    ):
        deepspeed = _import_deepspeed()
        stage = max(zero_stage, 2) if dtype == "bfloat16" else zero_stage
        optimizer = _optimizer(learner, {id(p) for p in hidden_matrices}, plan)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._clip_norm = plan.clip_norm
        self._engine, *_ = deepspeed.initialize(
            model=learner, optimizer=optimizer, config=_config(learner, stage, dtype), dist_init_required=False
        )
        self._zero: _Zero = {0: _Replicated, 1: _Shared, 2: _Shared, 3: _Partitioned}[stage](self._engine)
        self.parameters = dict(learner.named_parameters())
        self.device = self._engine.device

    def backward(self, batch: PackedBatch, *, scale: float, last: bool) -> Tensor:
        """Adds scale × the gradient of the batch's summed loss; the `last` micro-batch of a step also sums over ranks.

        Returns the loss in nats, summed over the batch's labels on this rank, unscaled. Scalar, on the device."""
        self._engine.set_gradient_accumulation_boundary(last)
        total = self._engine(batch.to(self.device))
        self._engine.backward(total * scale, scale_wrt_gas=False)
        return total.detach()

    def step(self, share: float) -> float:
        """Clips, updates the weights at this share of the peak learning rates, and forgets the gradient.

        Returns the norm of the whole gradient before it was clipped, the same on every rank."""
        norm = self._zero.gradient_norm()
        if 0 < self._clip_norm < norm:
            self._zero.scale_gradient(self._clip_norm / norm)
        self._zero.ready()
        for group, peak in zip(self._engine.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self._engine.step()
        return norm

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's share of the training state: (kind/parameter, float32 tensor on the CPU), the kind being weight,
        momentum_buffer, exp_avg or exp_avg_sq. All ranks together give every tensor once. Every rank must walk to the
        end: tensors are gathered on the way. There is none before the first step."""
        for number, (name, parameter) in enumerate(self.parameters.items()):
            for kind in _kinds(parameter):
                whole = self._zero.get(parameter, kind)
                if number % dist.get_world_size() == dist.get_rank():
                    yield f"{kind}/{name}", whole.detach().to("cpu", torch.float32, copy=True).contiguous()

    def load_state(self, tensors: dict[str, Tensor], *, step: int, padding: PackedBatch) -> None:
        """Goes on after `step` steps from what `state` gave, on any number of ranks and at any ZeRO stage.

        padding: a batch without labels; a step on it makes DeepSpeed create the optimiser's state, to be filled."""
        self.backward(padding, scale=0.0, last=True)
        self.step(0.0)
        for name, parameter in self.parameters.items():
            for kind in _kinds(parameter):
                self._zero.set(parameter, kind, tensors[f"{kind}/{name}"].to(self.device))
        for state in self._zero.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(state["step"], step)

    def weights(self) -> dict[str, Tensor]:
        """Every weight by name, whole and in the model's dtype, on the CPU of rank 0; other ranks get an empty one."""
        whole: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            with self._zero.gathered(parameter):
                if dist.get_rank() == 0:
                    whole[name] = parameter.detach().to("cpu", copy=True)
        return whole


def _kinds(parameter: Any) -> tuple[str, ...]:
    """What there is to save of a parameter."""
    return ("weight", "momentum_buffer") if parameter.use_muon else ("weight", "exp_avg", "exp_avg_sq")


def _import_deepspeed() -> Any:
    """DeepSpeed, quiet and without what training on a CPU does not use."""
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    import deepspeed
    from deepspeed.runtime import compiler

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not on_gpu:
        # A shared-memory all-reduce for inference only: compiling it with g++ takes 40 s and serves nothing here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Muon's kernels are compiled when they are imported: 4 to 8 s for five matrix products that gain nothing.
        compiler.compile = lambda: compiler.dummy_decorator
    return deepspeed


def _config(learner: nn.Module, stage: int, dtype: str) -> dict[str, Any]:
    numel = sum(p.numel() for p in learner.parameters())
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": min(numel, 2**28), "allgather_bucket_size": 2**28}
    if stage in (1, 2):
        zero |= {"compute_grad_norm": False, "overlap_comm": False}
    if stage == 3:
        zero |= {"reduce_scatter": False}  # Muon needs whole gradients
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping only: batches are cut by the loop
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "gradient_clipping": 0.0,  # 1.0 by default, of whatever Muon has left in the gradient's place
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def _optimizer(learner: nn.Module, hidden: set[int], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """DeepSpeed's Muon for hidden matrices with torch's AdamW for the rest, or AdamW for all."""
    groups: dict[str, list[Tensor]] = {"muon": [], "matrices": [], "vectors": []}
    for parameter in learner.parameters():
        muon = plan.kind == "muon" and id(parameter) in hidden
        cast(Any, parameter).use_muon = muon  # where DeepSpeed looks for it
        groups["muon" if muon else "matrices" if parameter.ndim >= 2 else "vectors"].append(parameter)
    adam_rate = plan.adam_rate if plan.kind == "muon" else plan.rate
    orthogonal = {"lr": plan.rate, "momentum": plan.momentum, "weight_decay": plan.weight_decay, "use_muon": True}
    adam = {"lr": adam_rate, "betas": plan.betas, "eps": 1e-8, "weight_decay": plan.weight_decay, "use_muon": False}
    settings = {"muon": orthogonal, "matrices": adam, "vectors": adam | {"weight_decay": 0.0}}
    param_groups = [{"params": groups[name], **settings[name]} for name in groups if groups[name]]
    if plan.kind == "adamw":
        return torch.optim.AdamW(param_groups, fused=True)
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    return MuonWithAuxAdam(param_groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


# What differs between ZeRO stages: where the gradient is between backward and step, and where the state lives.


class _Zero(Protocol):
    optimizer: torch.optim.Optimizer  # Muon or AdamW, whose state is keyed by the tensors this stage gave it

    def gradient_norm(self) -> float:
        """Norm of the whole gradient, the same on every rank. Called once, after a step's last backward."""
        ...

    def scale_gradient(self, factor: float) -> None: ...

    def ready(self) -> None:
        """The gradient is final; what must happen before DeepSpeed's step happens now."""
        ...

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        """A whole float32 tensor of the state, on every rank; every rank must call."""
        ...

    def set(self, parameter: Tensor, kind: str, value: Tensor) -> None: ...

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        """Inside, the parameter is whole."""
        ...


def _square_sum(tensors: list[Tensor]) -> Tensor:
    """Sum of squares, float64 scalar. In pieces: a float32 norm of 2,000,000 numbers on a CPU is off by 3e-5, of
    65,536 by 2e-7, and a clipped gradient carries that error into every weight."""
    pieces = [piece for tensor in tensors for piece in tensor.reshape(-1).split(2**16)]
    return torch.stack(torch._foreach_norm(pieces)).double().square().sum()


class _Replicated:
    """Stage 0: every rank holds everything; gradients are summed before the step."""

    def __init__(self, engine: Any):
        self.optimizer = engine.optimizer
        self._parameters = list(engine.module.parameters())

    def gradient_norm(self) -> float:
        return _square_sum([p.grad for p in self._parameters]).sqrt().item()

    def scale_gradient(self, factor: float) -> None:
        torch._foreach_mul_([p.grad for p in self._parameters], factor)

    def ready(self) -> None:
        """Nothing is left to do."""

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        return parameter if kind == "weight" else self.optimizer.state[parameter][kind]

    def set(self, parameter: Tensor, kind: str, value: Tensor) -> None:
        self.get(parameter, kind).data.copy_(value)

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return nullcontext()


class _Shared:
    """Stages 1 and 2: weights are flat buffers, one a group; each rank has the state of a contiguous part of each.

    Here DeepSpeed orthogonalises Muon's matrices at the end of the last backward (`get_flat_partition`), before it
    takes the norm: its clipping would see orthogonal matrices, whose norm says nothing about the gradient, and shrink
    every update by it. So that call is put off until the gradient has been clipped.
    """

    def __init__(self, engine: Any):
        self._zero = engine.optimizer
        self.optimizer = self._zero.optimizer
        self._orthogonalise = self._zero.get_flat_partition
        self._zero.get_flat_partition = self._put_off
        self._linked = False
        self._waiting: dict[int, tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]] = {}

    def _put_off(self, tensors: list[Any], *args: Any, **kwargs: Any) -> Any:
        group = kwargs["param_group_idx"]
        if not tensors or not tensors[0].use_muon:
            return self._orthogonalise(tensors, *args, **kwargs)
        self._waiting[group] = (self._zero.all_grad_tensors[group], (tensors, *args), kwargs)
        return None

    def gradient_norm(self) -> float:
        parts = [part for parts in self._zero.averaged_gradients.values() for part in parts or []]
        for group, (gradients, (parameters, *_), _) in self._waiting.items():
            parts += [self._own_part(group, p, g) for p, g in zip(parameters, gradients, strict=True)]
        square = _square_sum(parts)
        dist.all_reduce(square)
        return square.sqrt().item()

    def _own_part(self, group: int, parameter: Tensor, gradient: Tensor) -> Tensor:
        """The part of a gradient whose sum over ranks this rank has; parts of all ranks make the whole."""
        number, rank = self._zero.get_param_id(parameter), dist.get_rank()
        start = self._zero.grad_start_offset[group][rank][number]
        room = int(self._zero.partition_size[group]) - self._zero.grad_partition_insertion_offset[group][rank][number]
        return gradient.reshape(-1)[start : start + room]

    def scale_gradient(self, factor: float) -> None:
        gradients = [part for parts in self._zero.averaged_gradients.values() for part in parts or []]
        gradients += [gradient for waiting, _, _ in self._waiting.values() for gradient in waiting]
        torch._foreach_mul_(gradients, factor)

    def ready(self) -> None:
        for group, (gradients, args, kwargs) in self._waiting.items():
            self._zero.all_grad_tensors[group] = gradients
            self._zero.averaged_gradients[group] = self._orthogonalise(*args, **kwargs)
            self._zero.all_grad_tensors[group] = None
        self._waiting.clear()

    def get(self, parameter: Any, kind: str) -> Tensor:
        if kind == "weight":
            return parameter.get_full_hp_param()
        if kind != "momentum_buffer":
            self._link()
            return parameter.get_full_hp_param(kind)
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        held = self._momentum(parameter)
        if held is not None and dist.get_rank() == min(self._holders(parameter)):
            whole.copy_(held)
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def set(self, parameter: Any, kind: str, value: Tensor) -> None:
        if kind == "momentum_buffer":
            held = self._momentum(parameter)
            if held is not None:
                held.copy_(value.reshape(-1))
            return
        if kind == "weight":
            parameter.data.copy_(value)
            parameter.set_full_hp_param(value)
        else:
            self._link()
            parameter.set_full_hp_param(value, kind)

    def _link(self) -> None:
        """DeepSpeed links the moments to the parameters after the first group's first step, when the other groups have
        none yet, and never again: so once more, when all have."""
        if not self._linked:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()
            self._linked = True

    def _group(self, parameter: Tensor) -> int:
        number = self._zero.get_param_id(parameter)
        return next(group for group, ids in self._zero.param_to_partition_ids.items() if number in ids)

    def _holders(self, parameter: Tensor) -> list[int]:
        """Ranks that have the momentum of a Muon matrix; one that lies over the edge of two parts is whole on both."""
        return self._zero.param_to_partition_ids[self._group(parameter)][self._zero.get_param_id(parameter)]

    def _momentum(self, parameter: Tensor) -> Tensor | None:
        """This rank's momentum of a matrix, flat, or None. The buffer of a group is its matrices end to end, whole ones
        even at the edges, so `safe_get_full_optimizer_state` cannot address it."""
        group, start = self._group(parameter), 0
        for held in self._zero.params_in_partition[group]:
            if held is parameter:
                flat = self.optimizer.param_groups[group]["params"][0]
                return self.optimizer.state[flat]["momentum_buffer"][start : start + parameter.numel()]
            start += held.numel()
        return None

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return nullcontext()


class _Partitioned:
    """Stage 3: each rank has an equal part of every parameter, its gradient and its state. Muon is part of the step."""

    def __init__(self, engine: Any):
        self._zero = engine.optimizer
        self.optimizer = self._zero.optimizer

    def _gradients(self) -> list[Tensor]:
        return [part for parts in self._zero.averaged_gradients.values() for part in parts or []]

    def gradient_norm(self) -> float:
        square = _square_sum(self._gradients())
        dist.all_reduce(square)
        return square.sqrt().item()

    def scale_gradient(self, factor: float) -> None:
        torch._foreach_mul_(self._gradients(), factor)

    def ready(self) -> None:
        """Nothing is left to do."""

    def get(self, parameter: Any, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = (
            safe_get_full_fp32_param(parameter) if kind == "weight" else safe_get_full_optimizer_state(parameter, kind)
        )
        return cast(Tensor, found)

    def set(self, parameter: Any, kind: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        # The last rank's part may reach beyond the parameter's end.
        size = parameter.partition_numel()
        part = torch.zeros(size, device=value.device)
        own = value.reshape(-1)[size * dist.get_rank() : size * (dist.get_rank() + 1)]
        part[: own.numel()] = own
        if kind == "weight":
            safe_set_local_fp32_param(parameter, part)
            with self.gathered(parameter):
                parameter.data.copy_(value)
        else:
            safe_set_local_optimizer_state(parameter, part, kind)

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        import deepspeed

        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
