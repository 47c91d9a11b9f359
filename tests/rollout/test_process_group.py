"""pipelines/rollout/process_group.py, of one process."""

from __future__ import annotations

from contextlib import closing

import psutil
import pytest
import torch
import torch.distributed as dist

from cluster.rendezvous import reserve_port
from pipelines.rollout.process_group import join_process_group


@pytest.mark.skipif(torch.cuda.is_available(), reason="would choose the GPU of the whole test process")
def test_the_rendezvous_listens_on_the_address_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(reserve_port("127.0.0.1")) as reserved:  # as a gang's member keeps it
        port = reserved.getsockname()[1]
        group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**group, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}.items():
            monkeypatch.setenv(name, value)
        assert join_process_group() == torch.device("cpu")
        try:
            connections = psutil.Process().net_connections()
            listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
            assert listening == {"127.0.0.1"}
            total = torch.tensor([2.0])
            dist.all_reduce(total)
            assert total.item() == 2.0
        finally:
            dist.destroy_process_group()
