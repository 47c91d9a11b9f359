"""A replica's engine: the model's folder on its node, vLLM's arguments and environment, and its start."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.loading import loading
from cluster.resources import cores
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference import engine_size
from pipelines.inference.environment import environment
from pipelines.inference.model_config import architectures, context_length, engine_dtype, read_config
from pipelines.store.artifacts import Store
from serve.gateway.asgi import App
from serve.gateway.tools import call_parser
from serve.hosting.engine_process import EngineProcess
from serve.settings import Settings

NUM_IMPORTS = 5  # tries: Ray registers four names
FOLDERS = ("model", "guard_folder", "knowledge_folder")  # settings that name an artifact


def local(settings: Settings) -> Settings:
    """These settings with the folders of artifacts on this node, fetched from the store where necessary."""
    if settings.store is None:
        return settings
    store = Store(settings.store)
    fetched = {name: _fetched(store, getattr(settings, name)) for name in FOLDERS}
    if settings.guard_model is not None and settings.guard_model.version:
        folder = _fetched(store, settings.guard_model.folder)
        fetched["guard_model"] = settings.guard_model.model_copy(update={"folder": folder})
    return settings.model_copy(update=fetched)


def _fetched(store: Store, folder: Path | None) -> Any:
    """The folder of an artifact on this node. It is named by its fingerprint. Raises UserError where it is gone."""
    if folder is None or (folder / "manifest.json").is_file():
        return folder
    artifact = store.by_fingerprint(folder.name)
    if artifact is None:
        raise UserError(f"store {store.location}: no artifact {folder.name}; expected the one that this server is for")
    return artifact.local()


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """vLLM's engine arguments."""
    max_tokens = settings.max_tokens or context_length(settings.model)
    on_cpu = not settings.gpus
    dtype = engine_dtype(settings.model, on_cpu=on_cpu)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_tokens,
        **engine_size.batching(max_tokens, on_cpu=on_cpu),
        "enforce_eager": on_cpu,
        "generation_config": "vllm",  # the gateway sets where replies stop, not the model's generation_config.json
        "disable_log_stats": False,
        "tensor_parallel_size": max(1, settings.gpus),
        "allowed_origins": [],  # no web site may read replies
    }
    if settings.adapter_slots:
        arguments |= {"enable_lora": True, "max_loras": settings.adapter_slots, "max_lora_rank": settings.adapter_rank}
    if on_cpu or settings.kv_cache_bytes:
        default = engine_size.kv_bytes(read_config(settings.model), max_tokens, dtype)
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_bytes or default
    return arguments


def engine_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of the replica's process, which are those of vLLM's too."""
    variables = environment(settings.threads or cores(), settings.cache)
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # the engine runs in a separate process, beside the HTTP server
    variables.pop("VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    variables["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] = "1"
    # By default each part of a reply passes from a thread of the gateway's and vLLM's to one of Ray's, which sends it.
    variables["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] = "0"
    if not settings.gpus:
        variables["TORCHDYNAMO_DISABLE"] = "1"  # compiling vLLM's sampler takes 20 s and gains nothing on a CPU
    return variables


def tool_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of vLLM's HTTP application: its parser of calls, where the model calls tools."""
    parser = call_parser(Chat.open(settings.model))
    return {} if parser is None else {"enable_auto_tool_choice": True, "tool_call_parser": parser}


def llm_config(settings: Settings, *, calls_tools: bool = True) -> dict[str, Any]:
    """Arguments of ray.serve.llm's LLMConfig. calls_tools: whether the model may."""
    return {
        "model_loading_config": {"model_id": settings.name, "model_source": str(settings.model)},
        "accelerator_config": {"kind": "gpu" if settings.gpus else "cpu"},
        "engine_kwargs": engine_arguments(settings) | (tool_arguments(settings) if calls_tools else {}),
        "log_engine_metrics": False,  # vLLM's metrics are at /metrics
    }


async def start(settings: Settings, *, calls_tools: bool = True) -> tuple[Any, App, int]:
    """Ray's LLM server with its engine, vLLM's application around it, and the maximum of a prompt with its reply.

    calls_tools: whether the model may."""
    process = None if settings.gpus else EngineProcess(architectures(settings.model))
    with loading():
        llm_private = imported("serve.hosting.llm_private")
    if settings.address is None:
        llm_private.listen_on_loopback()
    config = llm_config(settings, calls_tools=calls_tools)
    server = await llm_private.start(config, process)
    return server, await llm_private.application(server), config["engine_kwargs"]["max_model_len"]


def imported(name: str) -> ModuleType:
    """Imports a module that imports ray.serve.llm, although other replicas of this Ray do so at the same time.

    Ray registers each of its connectors with the cluster if it is not registered yet, and fails where another process
    registers it between the two (2.60.0, kv_transfer/factory.py of its vLLM engine); so it is imported again then."""
    for _ in range(NUM_IMPORTS - 1):
        try:
            return importlib.import_module(name)
        except ValueError as error:
            if "already registered" not in str(error):
                raise
    return importlib.import_module(name)
