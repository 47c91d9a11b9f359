"""The nodes that a plan is for: given as `1x8xH100`, or this machine.

Speeds are dense bfloat16 products by the makers' data sheets; of them a square product reaches about three quarters
(741 of an H100's 989, measured). A CPU's speed is measured.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, replace

import psutil

from pipelines.errors import UserError

GIB, GIGA, TERA = 2**30, 1e9, 1e12
REACHED = 0.75  # of the data sheet's rate by one large product
COPIED = 0.88  # of the data sheet's rate by a copy: 2,958 of an H100's 3,350 GB/s, 4,239 of an H200's 4,800, measured
# name -> GiB of memory, dense bfloat16 TFLOP/s, GB/s of memory
ACCELERATORS: dict[str, tuple[float, float, float]] = {
    "A10": (22.5, 125, 600), "A100": (80, 312, 2039), "A100-40": (40, 312, 1555), "A800": (80, 312, 2039),
    "A6000": (48, 155, 768), "B200": (180, 2250, 8000), "H20": (96, 148, 4000), "H100": (80, 989, 3350),
    "H200": (141, 989, 4800), "H800": (80, 989, 3350), "L4": (22.5, 121, 300), "L40S": (48, 362, 864),
    "RTX3090": (24, 71, 936), "RTX4090": (24, 165, 1008), "RTX5090": (32, 209, 1792),
}  # fmt: skip
BYTES_PER_FLOP = 3350e9 / 989e12  # of the H100, for accelerators of whose memory no speed is given
CPU_BYTES_PER_FLOP, OPERATION_S = 0.1, 10e-6  # of CPUs of which FLOP/s alone are known: as an EPYC's core has them
USABLE = 0.95  # of the memory: the rest is the driver's, the system's, or lost between tensors
EXPECTED = (
    "expected NODESxGPUSxNAME such as 1x8xH100, with a name of {names}; your own as 1x8xNAME:48GiB:180TFLOPS, with the "
    "memory of one and its dense bfloat16 speed; or CPU cores as 2x16xCPU:64GiB, with the memory of a node"
)


@dataclass(frozen=True)
class Machines:
    """Nodes of one kind. flops_per_s: of one accelerator, or of one core, in products of large matrices."""

    nodes: int
    per_node: int  # accelerators of a node, or cores
    name: str  # such as H100; CPU
    memory_bytes: int  # usable, of one accelerator, or of a node without one
    flops_per_s: float  # in bfloat16 on a GPU, in float32 on a CPU
    on_gpu: bool
    bfloat16_flops_per_s: float | None = None  # of a CPU, whose instructions decide whether it is the faster type
    bytes_per_s: float = 0.0  # of a GPU, copied within its memory; of a core, copied
    operation_s: float = OPERATION_S  # see Speed
    read_bytes_per_s: float = 0.0  # see Speed; by all cores together
    busy_operation_s: float = 0.0

    @property
    def count(self) -> int:
        """Accelerators, or cores, of all nodes."""
        return self.nodes * self.per_node

    def __str__(self) -> str:
        return f"{self.nodes}x{self.per_node}x{self.name}"


def gib(num_bytes: float) -> str:
    """1.5 GiB."""
    return f"{num_bytes / GIB:.1f} GiB"


def parse(text: str) -> Machines:
    """Nodes by their name in `--nodes`. Raises UserError for another form, and for an accelerator of unknown speed."""
    match = re.fullmatch(r"(\d+)x(\d+)x([\w-]+)(?::(\d+(?:\.\d+)?)GiB)?(?::(\d+(?:\.\d+)?)TFLOPS)?", text.strip())
    expected = EXPECTED.format(names=", ".join(ACCELERATORS))
    if match is None or not all(float(number or 1) for number in (match[1], match[2], match[4], match[5])):
        raise UserError(f"--nodes {text}: {expected}")
    nodes, per_node, name = int(match[1]), int(match[2]), match[3]
    known = {key.lower(): (key, *figures) for key, figures in ACCELERATORS.items()}.get(name.lower())
    if name.lower() == "cpu":
        memory = int(USABLE * (float(match[4]) * GIB if match[4] else psutil.virtual_memory().total))
        if match[5]:
            flops = float(match[5]) * TERA
            bytes_per_s = CPU_BYTES_PER_FLOP * flops
            return Machines(nodes, per_node, "CPU", memory, flops, on_gpu=False, bytes_per_s=bytes_per_s)
        return replace(this_machine(on_gpu=False), nodes=nodes, per_node=per_node, memory_bytes=memory)
    if known is None and not (match[4] and match[5]):
        raise UserError(f"--nodes {text}: memory and speed of {name} are not known here; {expected}")
    key, gib, tflops, gigabytes_per_s = known or (name, 0.0, 0.0, 0.0)
    gib, tflops = float(match[4] or gib), float(match[5] or tflops)
    return Machines(
        nodes, per_node, key, int(USABLE * gib * GIB), REACHED * tflops * TERA, on_gpu=True,
        bytes_per_s=COPIED * (gigabytes_per_s * GIGA or BYTES_PER_FLOP * tflops * TERA),
    )  # fmt: skip


@functools.cache
def this_machine(*, on_gpu: bool | None = None) -> Machines:
    """The GPUs of this machine, or its cores where it has none, measured once a process.

    on_gpu: which; default: GPUs where there are any."""
    import torch

    from pipelines.inference import hardware

    gpus = torch.cuda.device_count() if on_gpu is not False else 0
    if gpus:
        properties = torch.cuda.get_device_properties(0)
        flops = hardware.peak_flops_per_s("cuda:0", torch.bfloat16)
        name = properties.name.removeprefix("NVIDIA ").split()[0]
        memory = int(USABLE * properties.total_memory)
        return Machines(1, gpus, name, memory, flops, on_gpu=True, bytes_per_s=hardware.copy_bytes_per_s("cuda:0"))
    small_s = hardware.operation_s()  # first: see busy_operation_s
    read, busy_s = hardware.read_bytes_per_s(), hardware.busy_operation_s()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        flops, bfloat16 = (
            hardware.peak_flops_per_s("cpu", dtype, seconds=0.15) for dtype in (torch.float32, torch.bfloat16)
        )
        copied = hardware.copy_bytes_per_s("cpu")
    finally:
        torch.set_num_threads(threads)
    cores = len(os.sched_getaffinity(0))
    memory = int(USABLE * psutil.virtual_memory().total)
    return Machines(1, cores, "CPU", memory, flops, False, bfloat16, copied, small_s, read, busy_s)
