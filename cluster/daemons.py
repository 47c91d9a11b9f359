"""Daemons that `ray.init` starts and a Ray of one program on one machine does without: 9 s of CPU time in a run of four
minutes, 2% of a core in a server.

Not started: the dashboard's server (it runs even without the dashboard, and ray.init waits for it), the autoscaler, and
the program that sends the logs of workers to the driver. The raylet ends without the dashboard's agent, so that is
replaced by this file, as a separate program: it reports what Ray's agent reports where the dashboard's packages are not
installed, that it has no ports, and ends with the raylet. Only the standard library is imported at the top.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

API_SERVER = "start_api_server"
UNUSED = (API_SERVER, "start_monitor", "start_log_monitor")  # methods of Ray's Node
AGENT = "--dashboard_agent_command"
NO_PORT = "-1"
NO_SERVER = "127.0.0.1:9"  # the port of a service that no machine offers any more


@contextlib.contextmanager
def unused_left_out() -> Iterator[None]:
    """Inside, ray.init starts a local Ray without these daemons."""
    from ray._private import services
    from ray._private.node import Node

    start: Callable[..., Any] = services.start_ray_process
    methods = {name: getattr(Node, name) for name in UNUSED}

    def start_process(command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return start(_with_our_agent(command), *args, **kwargs)

    for name in methods:
        setattr(Node, name, lambda node, **options: None)
    setattr(Node, API_SERVER, _name_no_api_server)
    services.start_ray_process = start_process
    try:
        yield
    finally:
        services.start_ray_process = start
        for name, method in methods.items():
            setattr(Node, name, method)


def _name_no_api_server(node: Any, **options: Any) -> None:
    """Writes where the dashboard's server would listen, so that Ray's State API fails at once, instead of after 40 s in
    which it waits for the address."""
    from ray._private import ray_constants

    key, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(key, NO_SERVER.encode(), True, namespace)


def _with_our_agent(command: Sequence[str]) -> list[str]:
    """The command of a daemon; that of the raylet starts this file as its agent."""
    values = dict(argument.split("=", 1) for argument in command if "=" in argument)
    if AGENT not in values:
        return list(command)
    from ray import _raylet

    raylet: Any = _raylet  # compiled, with types for some of its functions only
    ports = ("METRICS_AGENT_PORT_NAME", "METRICS_EXPORT_PORT_NAME", "DASHBOARD_AGENT_LISTEN_PORT_NAME")
    names = [raylet.get_port_filename(values["--node_id"], getattr(raylet, port)) for port in ports]
    agent = [sys.executable, "-I", "-S", __file__, *(os.path.join(values["--session_dir"], name) for name in names)]
    return [f"{AGENT}={shlex.join(agent)}" if argument.startswith(AGENT) else argument for argument in command]


def main() -> None:
    """Runs as the agent of a raylet: writes that there are no ports, and waits for the raylet's end."""
    raylet = os.getppid()
    for file in [argument for argument in sys.argv[1:] if not argument.startswith("--")]:  # the raylet adds options
        with open(f"{file}.new", "w") as unfinished:
            unfinished.write(NO_PORT)
        os.replace(f"{file}.new", file)
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main()
