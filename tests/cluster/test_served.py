"""`rayse serve --address`: a server on a running cluster of two nodes, beside another application of its Ray Serve."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import psutil
import pytest

from serve.hosting.front import free_port
from serve.hosting.server import start
from serve.settings import Replicas, Settings
from tests.cluster.conftest import Head, run_driver
from tests.runs import wait_until
from tests.serve.hosting.running import CHAT, Running, body
from tests.tiny_models import Tiny

APP = f"assistant-{uuid.uuid4().hex}"  # its replicas are found by this name among all processes of the machine
OTHER = """
from cluster.session import Session

with Session({address!r}):
    import ray.serve

    @ray.serve.deployment(ray_actor_options={{"num_cpus": 0}})
    class Other:
        async def __call__(self, request):
            return "still here"

    # Both nodes are on this machine, where one proxy alone can have the port.
    ray.serve.start("HeadOnly", http_options={{"host": "127.0.0.1", "port": {port}}})
    ray.serve.run(Other.bind(), name="other", route_prefix="/other")
"""


@pytest.mark.slow  # replicas start four times
def test_a_server_scales_over_nodes_from_none_and_back_and_leaves_other_applications_alone(
    head: Head, tiny: Tiny, tmp_path: Path
) -> None:
    port = free_port()
    settings = Settings(model=tiny.first, name="tiny", port=port, address=head.address, threads=2, guard=False,
                        route="/chat", app=APP,
                        replicas=Replicas(min=0, max=2, target_requests=1, idle_s=5))  # fmt: skip
    run_driver(OTHER.format(address=head.address, port=port))
    other = f"http://127.0.0.1:{port}/other"
    with head.another_node():
        with start(settings) as server, httpx.Client(base_url=server.url, timeout=600) as client:
            assert server.url == f"http://127.0.0.1:{port}/chat"
            wait_until(lambda: not replicas())
            assert httpx.get(other, timeout=60).text == "still here"
            assert client.post(CHAT, json=body()).status_code == 200  # waits for a replica
            with Running(client, tmp_path).requests(*["tiny"] * 4) as statuses:
                wait_until(lambda: len({each.ppid() for each in replicas()}) == 2)  # of two nodes, each 2 CPUs
            assert statuses.keys() == {200}, statuses
        assert not replicas()
        assert httpx.get(f"http://127.0.0.1:{port}/chat/health", timeout=60).status_code == 404
        assert httpx.get(other, timeout=60).text == "still here"


def replicas() -> list[psutil.Process]:
    """The server's replicas on both nodes; the parent of each is the raylet of its node."""
    titles = ((process, process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))
    return [process for process, title in titles if title and title[0].startswith(f"ray::ServeReplica:{APP}:")]
