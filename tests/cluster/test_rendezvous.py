"""The network interface that gloo and NCCL are told to use."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from cluster.rendezvous import group_environment

INTERFACES = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.7"], "eth1": ["192.168.4.2", "fe80::1%eth1"]}
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {name: [SimpleNamespace(address=each) for each in many] for name, many in INTERFACES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("address", "name"), [("127.0.0.1", "lo"), ("10.0.0.7", "eth0"), ("192.168.4.2", "eth1"), ("fe80::1", "eth1")]
)
def test_the_interface_that_has_the_nodes_address_is_used(address: str, name: str) -> None:
    """NCCL takes eth1 for a prefix, eth10 included; =eth1 is that one."""
    assert group_environment(address) == dict(zip(VARIABLES, (name, f"={name}", name), strict=True))


def test_where_no_interface_has_the_address_the_libraries_choose() -> None:
    assert group_environment("203.0.113.9") == {}


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert group_environment("10.0.0.7")["NCCL_SOCKET_IFNAME"] == "ib0"
    assert group_environment("10.0.0.7")["GLOO_SOCKET_IFNAME"] == "eth0"
