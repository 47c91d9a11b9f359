"""An artifact's folder → a Ray Serve application → an address that answers.

    host(settings)   in this process: connects to Ray, deploys, says where it listens, stays until it is told to stop
    (server.py starts it in a process of its own)

ray.serve.llm is inside, with direct streaming: the front (front.py) hands each request to a replica's own HTTP server,
where the gateway (gateway.py) stands around vLLM's. A server has a Ray of its own and touches no other.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.resources import cores
from cluster.session import Session, log_place
from cluster.termination import sigterm_interrupts
from pipelines.errors import UserError
from pipelines.inference import sampler
from pipelines.inference.model_config import context_length, read_config
from serve.gateway import asgi
from serve.hosting import front
from serve.settings import GREETING, GREETING_TOKENS, Settings

APP = "rayse"
FIRST_REPLY_S = 60.0
FIRST_REPLIES = 8  # most that are waited for; on a quiet machine the third is as fast as the second
SETTLED = 1.5  # how much slower than the fastest a reply may be
ERROR_LINE = re.compile(r"[\w.]*(?:Error|Exception)\b")


def application(settings: Settings) -> Any:
    """The Ray Serve application of a model. Needs the front's variables in the environment and Ray connected."""
    import ray.serve

    from serve.hosting.replica import Replica

    engine = engine_arguments(settings)
    config = {
        "model_loading_config": {"model_id": settings.name, "model_source": str(settings.model)},
        "accelerator_config": {"kind": "gpu" if settings.gpus else "cpu"},
        "engine_kwargs": engine,
        "log_engine_metrics": False,  # vLLM's own go to /metrics
    }
    bundle = {"CPU": 1.0, "GPU": 1.0} if settings.gpus else {"CPU": 1.0}
    deployment: Any = ray.serve.deployment(
        Replica,
        num_replicas=1,
        max_constructor_retry_count=1,  # what fails at its start fails again
        max_ongoing_requests=10_000,  # the gateway has a limit of its own, whose answer clients understand
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        placement_group_bundles=[bundle] * max(1, settings.gpus),
        placement_group_strategy="PACK",
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": engine_environment(settings)}},
    )
    return deployment.bind(settings.model_dump_json(), config, engine["max_model_len"])


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """What vLLM is started with."""
    config = read_config(settings.model)
    max_tokens = settings.max_tokens or context_length(settings.model)
    cpu = not settings.gpus
    arguments: dict[str, Any] = {
        # A CPU's bfloat16 is 5 × slower than float32; a GPU takes the model as it is.
        "dtype": "float32" if cpu else config.get("dtype") or config.get("torch_dtype") or "auto",
        "max_model_len": max_tokens,
        "max_num_seqs": sampler.NUM_ROWS,
        **sampler.batching(max_tokens, on_cpu=cpu),
        "enforce_eager": cpu,
        "generation_config": "vllm",  # the gateway says where replies stop; the folder's would be a second voice
        "disable_log_stats": False,
        "tensor_parallel_size": max(1, settings.gpus),
        "allowed_origins": [],  # no web site may read replies
    }
    if cpu or settings.kv_cache_bytes:
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_bytes or sampler.kv_bytes(settings.model, max_tokens)
    return arguments


def engine_environment(settings: Settings) -> dict[str, str]:
    """Variables of the replica's process and vLLM's."""
    threads = settings.threads or cores()
    variables = sampler.environment(threads, settings.cache)
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # the engine works beside the HTTP server, in its own process
    variables.pop("VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    if not settings.gpus:
        variables["TORCHDYNAMO_DISABLE"] = "1"  # compiling vLLM's sampler takes 20 s and gains nothing on a CPU
    return variables


def host(
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    ready: Callable[[str, float], Any] = lambda url, ready_s: None,
    say: Callable[[str], Any] = lambda text: None,
) -> None:
    """Serves until `stop` is set or Ctrl-C or SIGTERM comes. ready(url, seconds) is called once it answers.

    Raises UserError for settings that are unsafe, ClusterError where the port is taken or the model does not start,
    KeyboardInterrupt where it is told to stop before it was ready."""
    begin = time.monotonic()
    settings = settings.check()
    settings = settings.model_copy(update={"port": front.claim(settings.host, settings.port)})
    folder = Path(tempfile.mkdtemp(prefix="rayse-", dir="/tmp"))  # short: sockets stand in it
    answers: list[str] = []

    def is_ready() -> None:
        answers.append(url_of(settings))
        ready(answers[0], time.monotonic() - begin)

    try:
        os.environ.update(front.environment(folder, settings.host, settings.port))
        with sigterm_interrupts():
            _serve(settings, stop or threading.Event(), is_ready, say)
    except KeyboardInterrupt:
        if not answers:
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def url_of(settings: Settings) -> str:
    """Where clients on this machine find it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _serve(settings: Settings, stop: threading.Event, ready: Callable[[], Any], say: Callable[[str], Any]) -> None:
    with Session("local", logs=settings.logs, say=say):
        import ray.serve

        _check_gpus(settings)
        _silence()
        ray.serve.start(
            http_options={"host": "127.0.0.1", "port": settings.port}, logging_config={"log_level": "WARNING"}
        )
        try:
            ray.serve.run(application(settings), name=APP, route_prefix="/")
        except RuntimeError as error:
            raise ClusterError(f"{settings.model}: vLLM does not serve it here ({_reason()}). Logs: "
                               f"{log_place()}") from error  # fmt: skip
        _first_replies(settings)
        ready()
        while not stop.wait(1.0):
            _check_lives()


def _check_gpus(settings: Settings) -> None:
    """Raises UserError where the machine has fewer GPUs than are asked for: Ray would wait for them for ever."""
    import ray

    here = int(ray.cluster_resources().get("GPU", 0))
    if settings.gpus > here:
        raise UserError(
            f"gpus: {settings.gpus}, but Ray sees {here} on this machine; expected at most as many (0: on the CPU)"
        )


def _first_replies(settings: Settings) -> None:
    """Asks through the front door, as clients would, until replies come at one pace: a streamed one no more than half
    as slow again as the fastest so far. Only then is anybody told that it is ready; on a machine that stays restless,
    after eight.

    Raises ClusterError where no reply comes."""
    _first_reply(settings, stream=False)
    fastest = math.inf
    for _ in range(FIRST_REPLIES):
        begin = time.monotonic()
        _first_reply(settings, stream=True)
        took = time.monotonic() - begin
        if took <= SETTLED * fastest < math.inf:
            return
        fastest = min(fastest, took)


def _first_reply(settings: Settings, *, stream: bool) -> None:
    headers = {"content-type": "application/json"}
    headers |= {"authorization": f"Bearer {settings.key}"} if settings.key else {}
    asked = {"messages": [{"role": "user", "content": GREETING}], "max_tokens": GREETING_TOKENS, "min_tokens": 8}
    body = json.dumps(asked | {"stream": stream}).encode()
    request = urllib.request.Request(f"{url_of(settings)}/v1/chat/completions", body, headers)
    end = time.monotonic() + FIRST_REPLY_S
    while True:
        try:
            with asgi.open_here(request, FIRST_REPLY_S) as answered:
                found = answered.read()
            if asgi.is_reply(found, stream=stream):
                return
            why = f"it answered {found[-200:]!r}"
        except (OSError, HTTPException, ValueError) as error:  # the front learns of the replica a moment after it is up
            why = str(error)
        if time.monotonic() > end:
            raise ClusterError(f"{url_of(settings)}: the model is up, but no reply comes through the front ({why}). "
                               f"Logs: {log_place()}")  # fmt: skip
        time.sleep(0.2)


def _silence() -> None:
    """Ray Serve tells its driver's terminal what it does; its logs tell as much."""
    logging.getLogger("ray.serve").handlers.clear()
    logging.getLogger("ray.serve").propagate = False


def _reason() -> str:
    """The last line of why Ray Serve gave the application up."""
    import ray.serve

    found = ray.serve.status().applications.get(APP)
    told = [found.message, *(one.message for one in found.deployments.values())] if found else []
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR_LINE.match(line)), "see the logs")


def _check_lives() -> None:
    """Raises ClusterError where Ray itself is gone: nothing would answer any more."""
    import ray

    if not ray.is_initialized():
        raise ClusterError(f"Ray ended under the server. Logs: {log_place()}")
