"""Every private name of Ray Serve and its LLM part that we use, in one place (pinned: ray 2.60.0).

Imported in replicas only, because it imports vLLM. What it changes, and why:

- a replica also opens a gRPC port for Ray's calls, on every interface; on this machine it is bound to loopback
- on CPUs Ray selects vLLM's multiprocessing executor: one more process of 700 MB, which takes 13 s to import what the
  engine has imported, and a hop for every token; here the worker runs inside the engine's process
- that engine's process has been started already, where one is passed (engine_process.py)
- vLLM's structured outputs use one library, since its engine cannot change it from request to request
- Ray starts a process that downloads the model, and one of 400 MB that reports usage; here the model is a folder, and
  nothing is reported
"""

from __future__ import annotations

import contextlib
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve._private import replica as ray_replica
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from pipelines.inference.sampler import register_classes
from serve.gateway.asgi import App
from serve.hosting.engine_process import EngineProcess

_add_port = ray_replica.add_port_to_grpc_server


def _add_loopback_port(server: Any, address: str) -> int:
    return _add_port(server, address.replace("[::]", "127.0.0.1"))


def listen_on_loopback() -> None:
    """Binds the gRPC port of this replica to loopback. Not on a cluster, where other nodes may call it."""
    ray_replica.add_port_to_grpc_server = _add_loopback_port


class NoDownload(CallbackBase):
    """Skips the download: the model is a folder that this node can read."""

    async def on_before_node_init(self) -> None:
        """Called by Ray before it would start the download."""
        self.ctx.run_init_node = False


class OneProcessEngine(VLLMEngine):
    """vLLM's engine with its worker in the same process, where there is only one worker."""

    process: EngineProcess | None = None

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        parallel = vllm_engine_config.parallel_config
        if parallel.world_size == 1 and parallel.distributed_executor_backend == "mp":
            parallel.distributed_executor_backend = "uni"
        # "auto" chooses a library for each grammar, but the engine keeps the first one's and fails on another's (vLLM
        # 0.29); so a grammar that this one cannot read gets 400.
        vllm_engine_config.structured_outputs_config.backend = "xgrammar"
        with contextlib.nullcontext() if self.process is None else self.process.given_to_vllm():
            return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class QuietServer(LLMServer):
    """Ray's LLM server without its usage reports."""

    async def _start_engine(self) -> None:
        if self.engine is not None:
            await self.engine.start()


async def start(llm_config: dict[str, Any], process: EngineProcess | None) -> QuietServer:
    """Starts Ray's LLM server with its engine. llm_config: arguments of LLMConfig. process: of the engine, on a CPU."""
    if process is not None:
        register_classes(process.architectures)
    config = LLMConfig(**llm_config, callback_config=CallbackConfig(callback_class=NoDownload))
    engine = type("Engine", (OneProcessEngine,), {"process": process})
    server: Any = QuietServer.sync_init(config, engine_cls=engine)
    await server.start()
    return server


async def load_adapter(server: Any, name: str, folder: str) -> None:
    """Loads a LoRA adapter of a name that the engine does not know. Raises ValueError where it does not fit."""
    await server.engine.resolve_lora(
        DiskMultiplexConfig(model_id=name, max_total_tokens=None, local_path=folder, lora_assigned_int_id=1)
    )


async def remove_adapter(server: Any, name: str) -> None:
    """Removes an adapter that no request uses: vLLM's own route forgets its name, but keeps its slot in use."""
    adapter = server.engine._oai_models.lora_requests.pop(name)
    await server.engine._engine_client.remove_lora(adapter.lora_int_id)


async def application(server: Any) -> App:
    """vLLM's HTTP application around that engine, which direct streaming exposes to clients."""
    return await server.__serve_build_asgi_app__()
