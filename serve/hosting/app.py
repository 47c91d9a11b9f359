"""From settings to a Ray Serve application that answers requests.

    host(settings)   in this process: connects to Ray, deploys, waits until replies come, serves until it is stopped
                     (server.py starts it in a separate process)

ray.serve.llm with direct streaming: the front (front.py) hands each request to a replica's HTTP server, where the
gateway (serve/gateway/) stands around vLLM's application. A server starts a separate Ray and touches no other.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.resources import cores
from cluster.session import Session, log_location
from cluster.termination import sigterm_interrupts
from pipelines.errors import UserError
from pipelines.inference import engine_size, sampler
from pipelines.inference.model_config import context_length, engine_dtype, read_config
from serve.hosting import front
from serve.hosting.readiness import wait_until_steady
from serve.settings import Settings

if TYPE_CHECKING:
    import ray.serve

APP = "rayse"
ERROR_LINE = re.compile(r"[\w.]*(?:Error|Exception)\b")
Log = Callable[[str], object]
"""Takes a line for whoever started the server."""


def application(settings: Settings) -> ray.serve.Application:
    """The Ray Serve application of a model. Needs the front's variables in the environment, and a connection to Ray."""
    import ray.serve

    from serve.hosting.replica import Replica

    engine = engine_arguments(settings)
    llm_config = {
        "model_loading_config": {"model_id": settings.name, "model_source": str(settings.model)},
        "accelerator_config": {"kind": "gpu" if settings.gpus else "cpu"},
        "engine_kwargs": engine,
        "log_engine_metrics": False,  # vLLM's metrics are at /metrics
    }
    bundle = {"CPU": 1.0, "GPU": 1.0} if settings.gpus else {"CPU": 1.0}
    deployment: Any = ray.serve.deployment(
        Replica,
        num_replicas=1,
        max_constructor_retry_count=1,  # what fails at its start fails again
        max_ongoing_requests=10_000,  # the gateway has a limit, with an error that clients understand
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        placement_group_bundles=[bundle] * max(1, settings.gpus),
        placement_group_strategy="PACK",
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": engine_environment(settings)}},
    )
    return deployment.bind(settings.model_dump_json(), llm_config, engine["max_model_len"])


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
    if on_cpu or settings.kv_cache_bytes:
        default = engine_size.kv_bytes(read_config(settings.model), max_tokens, dtype)
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_bytes or default
    return arguments


def engine_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of the replica's process, which are those of vLLM's too."""
    variables = sampler.environment(settings.threads or cores(), settings.cache)
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # the engine runs in a separate process, beside the HTTP server
    variables.pop("VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    if not settings.gpus:
        variables["TORCHDYNAMO_DISABLE"] = "1"  # compiling vLLM's sampler takes 20 s and gains nothing on a CPU
    return variables


def host(
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    on_ready: Callable[[str, float], object] = lambda url, ready_s: None,
    log: Log = lambda text: None,
) -> None:
    """Serves until `stop` is set, or Ctrl-C or SIGTERM comes. Calls on_ready(url, seconds since the start) once ready.

    Raises UserError for unsafe or impossible settings, ClusterError where the port is taken or the model does not
    start, KeyboardInterrupt where it is stopped before it was ready."""
    start = time.monotonic()
    settings = settings.check()
    settings = settings.model_copy(update={"port": front.claim_port(settings.host, settings.port)})
    folder = Path(tempfile.mkdtemp(prefix="rayse-", dir="/tmp"))  # a short path, as those of sockets must be
    was_ready = False

    def report_ready() -> None:
        nonlocal was_ready
        was_ready = True
        on_ready(url_of(settings), time.monotonic() - start)

    try:
        os.environ.update(front.environment(folder, settings.host, settings.port))
        with sigterm_interrupts():
            _serve(settings, stop or threading.Event(), report_ready, log)
    except KeyboardInterrupt:
        if not was_ready:
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def url_of(settings: Settings) -> str:
    """URL of the server for clients on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _serve(settings: Settings, stop: threading.Event, on_ready: Callable[[], object], log: Log) -> None:
    with Session("local", logs=settings.logs, on_message=log):
        import ray.serve

        _check_gpus(settings)
        _silence_ray_serve()
        ray.serve.start(
            http_options={"host": "127.0.0.1", "port": settings.port}, logging_config={"log_level": "WARNING"}
        )
        try:
            ray.serve.run(application(settings), name=APP, route_prefix="/")
        except RuntimeError as error:
            raise ClusterError(f"{settings.model}: vLLM does not serve this model here ({_failure()}). Logs: "
                               f"{log_location()}") from error  # fmt: skip
        wait_until_steady(url_of(settings), settings.key, log_location())
        on_ready()
        while not stop.wait(1.0):
            _check_ray()


def _check_gpus(settings: Settings) -> None:
    """Raises UserError where the machine has too few GPUs: Ray would wait for them for ever."""
    import ray

    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if settings.gpus > num_gpus:
        raise UserError(
            f"gpus: {settings.gpus}, but Ray sees {num_gpus} on this machine; expected at most {num_gpus} (0 serves "
            f"on the CPU)"
        )


def _silence_ray_serve() -> None:
    """Keeps Ray Serve's log lines out of this process's terminal; its log files have them."""
    logging.getLogger("ray.serve").handlers.clear()
    logging.getLogger("ray.serve").propagate = False


def _failure() -> str:
    """The last line with an error among Ray Serve's messages on the application."""
    import ray.serve

    status = ray.serve.status().applications.get(APP)
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())] if status else []
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR_LINE.match(line)), "see the logs")


def _check_ray() -> None:
    """Raises ClusterError where Ray itself has ended, so that nothing would answer any more."""
    import ray

    if not ray.is_initialized():
        raise ClusterError(f"Ray ended under the server. Logs: {log_location()}")
