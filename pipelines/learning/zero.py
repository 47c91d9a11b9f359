"""Where DeepSpeed keeps the gradient between backward and step, and the training state, at each ZeRO stage.

    0: Replicated    1, 2: Shared    3: Partitioned

The engine (engine.py) hands its DeepSpeed in; no other module knows these insides. Clipping is done here and not by
DeepSpeed, because from stage 1 on its Muon has already replaced the gradient by an orthogonal update when it takes the
norm: it would shrink every update by a norm that says nothing about the gradient.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Zero(Protocol):
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


class Replicated:
    """Stage 0: every rank holds everything; gradients are summed before the step."""

    def __init__(self, engine: Any, deepspeed: Any):
        self.optimizer = engine.optimizer
        self._parameters = [p for p in engine.module.parameters() if p.requires_grad]

    def gradient_norm(self) -> float:
        return square_sum([p.grad for p in self._parameters]).sqrt().item()

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


class Shared:
    """Stages 1 and 2: weights are flat buffers, one a group; each rank has the state of a contiguous part of each.

    Here DeepSpeed orthogonalises Muon's matrices at the end of the last backward, in `get_flat_partition`. That call is
    put off until the gradient has been clipped.
    """

    def __init__(self, engine: Any, deepspeed: Any):
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
        square = square_sum(parts)
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


class Partitioned:
    """Stage 3: each rank has an equal part of every parameter, its gradient and its state. Muon is part of the step."""

    def __init__(self, engine: Any, deepspeed: Any):
        self._deepspeed = deepspeed
        self._zero = engine.optimizer
        self.optimizer = self._zero.optimizer

    def _gradients(self) -> list[Tensor]:
        return [part for parts in self._zero.averaged_gradients.values() for part in parts or []]

    def gradient_norm(self) -> float:
        square = square_sum(self._gradients())
        dist.all_reduce(square)
        return square.sqrt().item()

    def scale_gradient(self, factor: float) -> None:
        torch._foreach_mul_(self._gradients(), factor)

    def ready(self) -> None:
        """Nothing is left to do."""

    def get(self, parameter: Any, kind: str) -> Tensor:
        if kind == "weight":
            return self._deepspeed.utils.safe_get_full_fp32_param(parameter)
        return self._deepspeed.utils.safe_get_full_optimizer_state(parameter, kind)

    def set(self, parameter: Any, kind: str, value: Tensor) -> None:
        # The last rank's part may reach beyond the parameter's end.
        size = parameter.partition_numel()
        part = torch.zeros(size, device=value.device)
        own = value.reshape(-1)[size * dist.get_rank() : size * (dist.get_rank() + 1)]
        part[: own.numel()] = own
        if kind == "weight":
            self._deepspeed.utils.safe_set_local_fp32_param(parameter, part)
            with self.gathered(parameter):
                parameter.data.copy_(value)
        else:
            self._deepspeed.utils.safe_set_local_optimizer_state(parameter, part, kind)

    def gathered(self, parameter: Tensor) -> AbstractContextManager[Any]:
        return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def square_sum(tensors: list[Tensor]) -> Tensor:
    """Sum of squares, a float64 scalar. In pieces: a float32 norm of 2,000,000 numbers on a CPU is off by 3e-5, of
    65,536 by 2e-7, and a clipped gradient carries that error into every weight."""
    pieces = [piece for tensor in tensors for piece in tensor.reshape(-1).split(2**16)]
    return torch.stack(torch._foreach_norm(pieces)).double().square().sum()
