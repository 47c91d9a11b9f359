"""What the hardware of this process does, measured: rates of large products, of copies and of reading weights, the time
of a small operation, and the most memory that it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from pipelines.inference import process_memory
from pipelines.inference.estimates import Speed
from pipelines.inference.process_memory import CONTEXT_BYTES

CPU_SIZES = (256, 512, 1024)  # 0.8 to 13 MB of float32 a product: within a core's cache, and beyond it
GPU_SIZES = (4096, 8192)
COPIED_BYTES = {"cpu": 2**25, "cuda": 2**28}  # beyond the caches
READ_SHAPE = (8192, 4096)  # 128 MiB of float32, beyond the caches, too
SMALL_OPERATIONS = 50


def peak_flops_per_s(device: str, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """Highest measured rate of a product of square matrices, of 2·n³ operations, on this process's threads or GPU.

    The fastest of all products counts: whatever else the machine does can only slow one down. seconds: of measuring; a
    type that takes longer for one large product (bfloat16 without instructions for it) is measured by small ones."""
    sizes = GPU_SIZES if device.startswith("cuda") else CPU_SIZES
    peak = 0.0
    for size in sizes:
        if peak and 2 * size**3 / peak > seconds / len(sizes):
            break
        peak = max(peak, 2 * size**3 / _fastest_product_s(size, device, dtype, seconds / len(sizes)))
    return peak


def _fastest_product_s(size: int, device: str, dtype: torch.dtype, seconds: float) -> float:
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    product = a @ b  # the first one also starts threads and picks kernels
    _wait(device)
    fastest_s, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        torch.mm(a, b, out=product)
        _wait(device)
        fastest_s = min(fastest_s, time.perf_counter() - start)
    return fastest_s


def copy_bytes_per_s(device: str, *, tries: int = 30) -> float:
    """Highest measured rate of a copy, bytes read and written: within a GPU's memory, or by this process's threads."""
    source = torch.empty(COPIED_BYTES[torch.device(device).type], dtype=torch.uint8, device=device)
    target, fastest_s = torch.empty_like(source), float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        fastest_s = min(fastest_s, time.perf_counter() - start)
    return 2 * source.numel() / fastest_s


def read_bytes_per_s(*, tries: int = 8) -> float:
    """Highest measured rate at which this process's threads read a matrix, for its product with a single row: what they
    do with an engine's weights for a reply's next token."""
    with torch.inference_mode():
        matrix, row = torch.ones(READ_SHAPE), torch.ones(1, READ_SHAPE[1])
        fastest_s = float("inf")
        for _ in range(tries):
            start = time.perf_counter()
            torch.mm(row, matrix.T)
            fastest_s = min(fastest_s, time.perf_counter() - start)
    return 4 * matrix.numel() / fastest_s


def operation_s() -> float:
    """Least measured time of a small operation on a CPU with its backward pass: what is left of it where there is next
    to nothing to compute, for Python, torch and autograd."""
    return _fastest_operation_s(lambda: None)


def busy_operation_s() -> float:
    """The same right after a product. Its threads spin for a while, in wait for the next one: where two of them share a
    core, what comes between products takes up to twice as long."""
    size = CPU_SIZES[0]
    a, b = torch.ones(size, size), torch.ones(size, size)
    return _fastest_operation_s(lambda: a @ b)


def _fastest_operation_s(before: Callable[[], object]) -> float:
    fastest_s = float("inf")
    with torch.inference_mode(False), torch.enable_grad():  # wherever it is called
        x = torch.ones(8, requires_grad=True)
        for _ in range(20):
            before()
            start = time.perf_counter()
            y = x
            for _ in range(SMALL_OPERATIONS):
                y = y * 0.99
            y.sum().backward()
            fastest_s = min(fastest_s, time.perf_counter() - start)
    return fastest_s / SMALL_OPERATIONS


def measured_speed(device: str, dtype: torch.dtype, *, world: int = 1) -> Speed:
    """What so many processes like this one do together, as long as the others are idle or measure, too."""
    small_s = operation_s()  # first: see busy_operation_s
    speed = Speed(world * peak_flops_per_s(device, dtype), world * copy_bytes_per_s(device), small_s)
    if device.startswith("cuda"):
        return speed
    return replace(speed, read_bytes_per_s=world * read_bytes_per_s(), busy_operation_s=busy_operation_s())


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory that this process holds from now on: on a GPU the tensors' there, with CONTEXT_BYTES; on a CPU
    its anonymous memory. Pages of files do not count, since all processes share them and they can be dropped.

    A process has one at a time: a second one starts the mark of both anew."""

    def __init__(self, device: str):
        self._device, self._file_bytes = device, 0
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
            return
        process_memory.restart_peak()
        self._file_bytes = process_memory.status_bytes("RssFile")

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device) + CONTEXT_BYTES
        # Pages of the model's files may be dropped before the end: they were there at the start.
        file_bytes = max(self._file_bytes, process_memory.status_bytes("RssFile"))
        return process_memory.status_bytes("VmHWM") - file_bytes
