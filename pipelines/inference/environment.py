"""Environment variables of a process with a vLLM engine, for whoever starts it: imports neither torch nor vLLM."""

from __future__ import annotations

from pathlib import Path


def environment(threads: int, cache: Path | None = None) -> dict[str, str]:
    """Environment variables of a process, to be set before torch and vLLM are imported there.

    threads: number of threads that the engine computes with on a CPU. cache: a folder for what vLLM compiles on a GPU
    and may reuse."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, where weights are pushed by a call
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads of several processes would meet on the same cores
        "OMP_NUM_THREADS": str(threads),  # vLLM turns torch.set_num_threads into a no-op
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one token more than the model's context: see max_model_len
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",  # of kernels, 160 KiB each; 1,024 by default, for any number of rows
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if cache is not None:
        settings |= {"VLLM_CACHE_ROOT": str(cache / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    return settings
