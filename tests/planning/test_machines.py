"""Nodes named on the command line, and this machine."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from pipelines.errors import UserError
from pipelines.planning.machines import ACCELERATORS, GIB, parse, this_machine


def test_nodes_of_a_known_accelerator() -> None:
    machines = parse("2x8xh100")
    assert (machines.nodes, machines.per_node, machines.count, machines.name) == (2, 8, 16, "H100")
    assert 0.9 * 80 * GIB < machines.memory_bytes < 80 * GIB
    assert 0.7 * 989e12 < machines.flops_per_s < 0.8 * 989e12  # 741e12 were measured
    assert str(machines) == "2x8xH100"


def test_an_accelerator_of_the_users_own() -> None:
    machines = parse("1x4xAtlas:64GiB:280TFLOPS")
    assert machines.on_gpu and machines.count == 4
    assert 0.9 * 64 * GIB < machines.memory_bytes < 64 * GIB
    assert machines.flops_per_s == pytest.approx(parse("1x1xH100").flops_per_s * 280 / 989)


def test_memory_of_a_known_one_can_be_given() -> None:
    assert parse("1x1xA100:40GiB").memory_bytes == parse("1x1xA100-40").memory_bytes


def test_cores_of_a_cpu() -> None:
    machines = parse("2x16xCPU:64GiB:0.1TFLOPS")
    assert (machines.on_gpu, machines.count, machines.flops_per_s) == (False, 32, 0.1e12)
    assert 0.9 * 64 * GIB < machines.memory_bytes < 64 * GIB


def test_this_machines_cores() -> None:
    machines = this_machine(on_gpu=False)
    assert machines.nodes == 1 and machines.per_node <= (psutil.cpu_count() or 0)
    assert 1e9 < machines.flops_per_s < 1e13


MEASURED = replace(
    parse("4x2xCPU:16GiB:0.1TFLOPS"), bytes_per_s=30e9, read_bytes_per_s=40e9, operation_s=1e-5, busy_operation_s=2e-5,
    bfloat16_flops_per_s=0.3e12,
)  # fmt: skip


@pytest.mark.parametrize(("ranks", "threads", "of_rank"), [(4, 2, 40e9), (4, 1, 30e9), (2, 2, 40e9), (8, 1, 20e9)])
def test_a_rank_reads_weights_at_the_rate_of_its_own_node(ranks: int, threads: int, of_rank: float) -> None:
    """Shared with others there; a single core reads no faster than it copies."""
    speed = MEASURED.speed(ranks, threads, on_gpu=False, item_bytes=4)
    assert speed.read_bytes_per_s / ranks == of_rank
    assert (speed.flops_per_s, speed.bytes_per_s) == (ranks * threads * 0.1e12, ranks * threads * 30e9)


def test_speed_of_cores_and_of_gpus() -> None:
    one, two = (MEASURED.speed(4, threads, on_gpu=False, item_bytes=2) for threads in (1, 2))
    assert (one.busy_operation_s, two.busy_operation_s) == (1e-5, 2e-5), "one thread has no others that spin"
    assert one.operation_s == two.operation_s == 1e-5 and one.flops_per_s == pytest.approx(4 * 0.3e12)
    assert MEASURED.speed(9, 2, on_gpu=False, item_bytes=4).flops_per_s == 8 * 0.1e12, "as many as there are cores"
    assert parse("1x8xH100").speed(8, 2, on_gpu=True, item_bytes=2).read_bytes_per_s == 0


@pytest.mark.parametrize(
    "text",
    [
        "H100",
        "8xH100",
        "0x8xH100",
        "1x8xH100:lots",
        "1x8x",
        "1x1xH100:80:3",
        "1x1xH100:1.2.3GiB",
        "1x1xMine:8GiB:0TFLOPS",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--nodes .*expected NODESxGPUSxNAME such as 1x8xH100"):
        parse(text)


@pytest.mark.parametrize("text", ["1x8xFoo", "1x8xFoo:80GiB", "1x8xFoo:80TFLOPS"])
def test_an_unknown_accelerator_is_named_with_the_known_ones_and_the_remedy(text: str) -> None:
    with pytest.raises(UserError, match="speed of Foo") as error:
        parse(text)
    assert all(name in str(error.value) for name in ACCELERATORS)
    assert "1x8xNAME:48GiB:180TFLOPS" in str(error.value)
