"""Two machines inside one: Ray nodes that have only the processor and a disk in common.

    head ── eth0 10.77.0.11 ◄────── a cable (veth) ──────► 10.77.0.12 eth0 ── worker

Each node has separate namespaces for network, mounts, processes and host name, and in them a separate /dev/shm, hosts
file and temporary folder of Ray. So a node can be lost as a machine is: first its cable goes dead, then all its
processes end at once. Peers are not notified; their connections just stop responding.

Nodes run in an environment with all installed packages but Rayse: a job must bring what it needs of it.
Needs root, iproute2 (ip) and util-linux (unshare, setpriv). All processes end with the one that started them;
a kill -9 of that one leaves two empty namespaces behind (`ip netns list`).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

HEAD, WORKER = "head", "worker"
ADDRESSES = {HEAD: "10.77.0.11", WORKER: "10.77.0.12"}  # a separate network: no conflict with others
START_S = 180.0  # a Ray node on a busy machine of two cores takes 10 to 40 s

# Script of a node's process 1: $1 is the host name, $2 the folder of TwoNodes, the rest Ray's command. The shell stays
# process 1, because orphans must be waited for: a raylet that is a zombie looks alive to its workers.
FIRST_PROCESS = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
shift 2
"$@"
echo "Ray ended: $?"
"""

# With port 0, chosen by Ray, a node waits 15 s for each agent to report its port, and gives up if the machine is busy.
AGENT_PORTS = {
    "dashboard-agent-grpc-port": 52366,
    "dashboard-agent-listen-port": 52365,
    "runtime-env-agent-port": 52364,
    "metrics-export-port": 52363,
}


@dataclass
class Node:
    """A node that has been started. process: `unshare`, whose only child is the node's process 1."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def first(self) -> psutil.Process:
        """The node's process 1."""
        return psutil.Process(self.process.pid).children()[0]

    def titles(self) -> list[str]:
        """The command lines of its processes; those of Ray's workers are titles like ray::Class.method."""
        titles = []
        for process in self.first.children(recursive=True):
            try:
                titles.append(" ".join(process.cmdline()).strip())
            except psutil.Error:  # it has ended meanwhile
                continue
        return titles


class TwoNodes:
    """A Ray cluster of a head and a worker node. Its folder, with the logs of both, is kept if the block fails."""

    def __init__(self, *, cpus: int):
        self.folder = Path(
            tempfile.mkdtemp(prefix="rc-")
        )  # short: paths of sockets hold 107 bytes, of which Ray needs 64
        self.cpus = cpus
        self.mark = secrets.token_hex(3)
        self.nodes: dict[str, Node] = {}
        self._starts = 0

    @property
    def dashboard(self) -> str:
        """The address that jobs are submitted to."""
        return f"http://{ADDRESSES[HEAD]}:8265"

    def __enter__(self) -> TwoNodes:
        try:
            self._lay_cable()
            self._write_files()
            for host in ADDRESSES:
                self.start(host)
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if kind is None:
            shutil.rmtree(self.folder)

    def start(self, host: str) -> None:
        """Starts a node, for the first time or again, and waits until Ray runs there."""
        _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "up")
        self._starts += 1
        log = self.folder / f"{self._starts}-{host}.log"
        isolated = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = ["bash", "-c", FIRST_PROCESS, "first", host, str(self.folder)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.inside(host), *isolated, *first, *self._ray(host)],
                cwd=self.folder, env=self._environment(host), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,  # Ctrl-C must not reach it: down() ends the nodes
            )  # fmt: skip
        self.nodes[host] = Node(process, log)
        end = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{host}: Ray did not start; {log}:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)

    def crash(self, host: str) -> None:
        """Loses a machine: its cable goes dead, then all its processes end at once."""
        _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "down")
        node = self.nodes.pop(host)
        node.first.kill()  # the kernel ends all of a process namespace with its first process
        node.process.wait(timeout=60)

    def down(self) -> None:
        """Ends both nodes and deletes their network."""
        for host in list(self.nodes):
            node = self.nodes.pop(host)
            node.process.kill()  # --kill-child: process 1 goes with it, and all others with that
            node.process.wait(timeout=60)
        for host in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", self.namespace(host)], capture_output=True)

    def namespace(self, host: str) -> str:
        """The name of a node's network namespace."""
        return f"rayse-{self.mark}-{host}"

    def inside(self, host: str) -> list[str]:
        """A prefix for a command, which then uses this host's network and ends with this process."""
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace(host)]

    def client_environment(self) -> dict[str, str]:
        """The environment of a user who may submit jobs: it has the cluster's token."""
        return {**os.environ, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    # ---- parts of a node ----------------------------------------------------------------------------------------

    def _lay_cable(self) -> None:
        """Makes the network namespaces and connects them by a veth pair."""
        for host in ADDRESSES:
            _run("ip", "netns", "add", self.namespace(host))
            _run("ip", "-n", self.namespace(host), "link", "set", "lo", "up")
        head, worker = self.namespace(HEAD), self.namespace(WORKER)
        _run("ip", "-n", head, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", worker)
        for host, address in ADDRESSES.items():
            _run("ip", "-n", self.namespace(host), "address", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "up")

    def _write_files(self) -> None:
        """Writes the hosts file (queries to an unreachable name server take seconds), the token and the environment."""
        names = "".join(f"{address} {host}\n" for host, address in ADDRESSES.items())
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (self.folder / "resolv.conf").write_text("options timeout:1 attempts:1\n")
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / "env"], check=True)
        (site,) = (self.folder / "env").glob("lib/python*/site-packages")
        for package in Path(sysconfig.get_path("purelib")).iterdir():
            if "rayse" not in package.name.lower() and not (site / package.name).exists():
                (site / package.name).symlink_to(package)

    def _environment(self, host: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        temporary = self.folder / host
        temporary.mkdir(exist_ok=True)
        return kept | {
            "PATH": f"{self.folder / 'env' / 'bin'}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(temporary),  # Ray also records there which cluster the machine belongs to
            "RAY_worker_niceness": "0",
        }

    def _ray(self, host: str) -> list[str]:
        """The command that starts Ray on a node."""
        ports = [f"--{name}={port}" for name, port in AGENT_PORTS.items()]
        role = [f"--address={ADDRESSES[HEAD]}:6379"]
        if host == HEAD:
            role = ["--head", "--port=6379", f"--dashboard-host={ADDRESSES[HEAD]}", "--dashboard-port=8265"]
        return [
            "python", "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={ADDRESSES[host]}", f"--temp-dir={self.folder / host / 'ray'}",
            f"--num-cpus={self.cpus}", "--object-store-memory=200000000", *ports, *role,
        ]  # fmt: skip


def _run(*command: str) -> None:
    """Runs a command. Raises RuntimeError with its stderr if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
