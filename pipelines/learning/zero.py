"""Training state by parameter name under DeepSpeed, at each ZeRO stage.

    0: Replicated    1, 2: OptimizerSharded    3: FullySharded

The engine (engine.py) passes its DeepSpeed in. Its public accessors (safe_get_full_*, safe_set_full_*) do most of it;
what they cannot address is written down here and nowhere else: Muon's momentum at stages 1 and 2, and at stage 3 a
parameter whose last part is padded.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Zero(Protocol):
    optimizer: torch.optim.Optimizer  # Muon or AdamW, whose state is keyed by the tensors that this stage passed to it

    def step(self) -> float:
        """Clips, updates the weights and zeroes the gradient. Returns the gradient's norm before clipping."""
        ...

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        """A whole float32 tensor of the state, on every rank; every rank must call."""
        ...

    def set(self, parameter: Tensor, kind: str, value: Tensor) -> None: ...

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        """A context in which the parameter is whole."""
        ...


class Replicated:
    """Stage 0: every rank holds everything; gradients are summed before the step."""

    def __init__(self, engine: Any):
        self._engine = engine
        self.optimizer = engine.optimizer

    def step(self) -> float:
        """See Zero. DeepSpeed reports no norm without ZeRO."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._engine.module.parameters() if p.grad is not None])
        self._engine.step()
        return norm.item()

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        return parameter if kind == "weight" else self.optimizer.state[parameter][kind]

    def set(self, parameter: Tensor, kind: str, value: Tensor) -> None:
        self.get(parameter, kind).data.copy_(value)

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return nullcontext()


class Sharded:
    """What stages 1 to 3 have in common."""

    def __init__(self, engine: Any, deepspeed: Any):
        self._engine = engine
        self._zero = engine.optimizer
        self._deepspeed = deepspeed
        self.optimizer = self._zero.optimizer

    def step(self) -> float:
        """See Zero. Muon's matrices count with their orthogonalised update: that is what DeepSpeed holds by then."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        if kind == "weight":
            return self._deepspeed.utils.safe_get_full_fp32_param(parameter)
        return self._deepspeed.utils.safe_get_full_optimizer_state(parameter, kind)


class OptimizerSharded(Sharded):
    """Stages 1 and 2: weights are flat buffers, one a group; each rank has the state of a contiguous part of each."""

    _linked = False

    def get(self, parameter: Tensor, kind: str) -> Tensor:
        if kind != "momentum_buffer":
            self._link()
            return super().get(parameter, kind)
        # A matrix over the edge of two parts has equal momenta on both ranks: the maximum takes either.
        whole = torch.full((parameter.numel(),), -torch.inf, device=parameter.device)
        momentum = self._momentum(parameter)
        if momentum is not None:
            whole.copy_(momentum)
        dist.all_reduce(whole, dist.ReduceOp.MAX)
        return whole.view_as(parameter)

    def set(self, parameter: Tensor, kind: str, value: Tensor) -> None:
        if kind == "weight":
            parameter.data.copy_(value)
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)
        elif kind != "momentum_buffer":
            self._link()
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, value, kind)
        elif (momentum := self._momentum(parameter)) is not None:
            momentum.copy_(value.reshape(-1))

    def _momentum(self, parameter: Tensor) -> Tensor | None:
        """This rank's momentum of a Muon matrix, flat; None where no part of the matrix is this rank's.

        A group's buffer is its matrices end to end, whole even at the edges, so DeepSpeed's accessors miss it."""
        for group, parameters in zip(self.optimizer.param_groups, self._zero.params_in_partition, strict=True):
            start = 0
            for held in parameters:
                if held is parameter:
                    return self.optimizer.state[group["params"][0]]["momentum_buffer"][start : start + held.numel()]
                start += held.numel()
        return None

    def _link(self) -> None:
        """DeepSpeed links the moments to the parameters after the first group's first step, when the other groups have
        none yet, and never again: so once more, when all have."""
        if not self._linked:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()
            self._linked = True

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return nullcontext()


class FullySharded(Sharded):
    """Stage 3: each rank has an equal part of every parameter, its gradient and its state."""

    def set(self, parameter: Any, kind: str, value: Tensor) -> None:
        size = parameter.partition_numel()
        values = value.reshape(-1)[size * dist.get_rank() : size * (dist.get_rank() + 1)]
        part = torch.zeros(size, device=value.device)  # the last rank's part may reach beyond the parameter's end
        part[: values.numel()] = values
        if kind == "weight":
            self._deepspeed.utils.safe_set_local_fp32_param(parameter, part)
            parameter.ds_tensor.data.copy_(part)
            if parameter.numel() == value.numel():  # a small one, which DeepSpeed keeps whole on every rank
                parameter.data.copy_(value)
        else:
            self._deepspeed.utils.safe_set_local_optimizer_state(parameter, part, kind)

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def state_access(engine: Any, deepspeed: Any, zero_stage: int) -> Zero:
    """The access to the training state that fits a ZeRO stage."""
    if zero_stage == 0:
        return Replicated(engine)
    return FullySharded(engine, deepspeed) if zero_stage == 3 else OptimizerSharded(engine, deepspeed)
