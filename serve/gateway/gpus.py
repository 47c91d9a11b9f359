"""Memory and use of this machine's NVIDIA GPUs, by NVML, the library of the driver. Other GPUs are not read.

Through ctypes: five calls do not need a package. https://docs.nvidia.com/deploy/nvml-api
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Gpu:
    """What a GPU does. memory_bytes: in use, by all processes. busy_fraction: of the last second or less, in which it
    computed."""

    index: int
    memory_bytes: int
    busy_fraction: float


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


@lru_cache(maxsize=1)
def _nvml() -> ctypes.CDLL | None:
    """NVML, initialised once; None without a driver."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def read_gpus() -> list[Gpu]:
    """The GPUs of this machine, by NVML's index; none without NVIDIA's driver. One that does not answer is left out."""
    library, count = _nvml(), ctypes.c_uint()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    readings: list[Gpu] = []
    for index in range(count.value):
        device, memory, use = ctypes.c_void_p(), _Memory(), _Utilization()
        failed = (
            library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
            or library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
            or library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(use))
        )
        if not failed:
            readings.append(Gpu(index, memory.used, use.gpu / 100))
    return readings
