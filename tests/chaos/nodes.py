"""Two machines inside one: Ray nodes that share nothing but the processor and a disk.

    head ── eth0 10.77.0.11 ◄────── a cable (veth) ──────► 10.77.0.12 eth0 ── worker

Each node has namespaces of its own for the network, mounts, processes and its host's name, and in them its own
/dev/shm, names of hosts and Ray's temporary folder. So a node can be lost as a machine is: its cable goes dead first,
then every process of it at once. Nobody is told; who talked to it hears nothing any more.

Nodes run in an environment that has all packages of ours but not Rayse: what a job needs of it must come with the job.
Needs root, iproute2 (ip) and util-linux (unshare, setpriv). All processes end with the one that made them;
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
ADDRESSES = {HEAD: "10.77.0.11", WORKER: "10.77.0.12"}  # each cable is of its own: no other network can be in the way
START_S = 180.0  # a Ray node on a busy machine of two cores takes 10 to 40 s

# What the first process of a node does: $1 is the host's name, $2 our folder, the rest Ray's command. The shell stays
# as process 1, since somebody must bury orphans: a dead raylet that is never waited for looks alive to its workers.
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

# With port 0, Ray's choice, a node waits 15 s for each agent to tell its port, and gives up where the machine is busy.
AGENT_PORTS = {
    "dashboard-agent-grpc-port": 52366,
    "dashboard-agent-listen-port": 52365,
    "runtime-env-agent-port": 52364,
    "metrics-export-port": 52363,
}


@dataclass
class Node:
    """A node that was started. process: of `unshare`; its only child is the node's process 1."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def first(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]

    def titles(self) -> list[str]:
        """The command lines of its processes; Ray's workers call themselves ray::Class.method there."""
        found = []
        for process in self.first.children(recursive=True):
            try:
                found.append(" ".join(process.cmdline()).strip())
            except psutil.Error:  # it ended while we looked
                continue
        return found


class TwoNodes:
    """A Ray cluster of a head and a worker. Its folder keeps the logs of both where what was done with it failed."""

    def __init__(self, *, cpus: int):
        self.folder = Path(tempfile.mkdtemp(prefix="rc-"))  # short: sockets' paths end at 107 bytes, 64 are Ray's
        self.cpus = cpus
        self.mark = secrets.token_hex(3)
        self.nodes: dict[str, Node] = {}
        self._starts = 0

    @property
    def dashboard(self) -> str:
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
        """Switches a node on, for the first time or again, and waits until Ray runs there."""
        _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "up")
        self._starts += 1
        log = self.folder / f"{self._starts}-{host}.log"
        isolated = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = ["bash", "-c", FIRST_PROCESS, "first", host, str(self.folder)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.inside(host), *isolated, *first, *self._ray(host)],
                cwd=self.folder, env=self._environment(host), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,  # Ctrl-C is for us; nodes end when we say so
            )  # fmt: skip
        self.nodes[host] = Node(process, log)
        end = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{host}: Ray did not start; {log}:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)

    def crash(self, host: str) -> None:
        """The machine is gone: nothing comes out of its cable any more, and all its processes end at once."""
        _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "down")
        node = self.nodes.pop(host)
        node.first.kill()  # the kernel ends all of a process namespace with its first process
        node.process.wait(timeout=60)

    def down(self) -> None:
        """Ends both nodes and takes the network away."""
        for host in list(self.nodes):
            node = self.nodes.pop(host)
            node.process.kill()  # --kill-child: process 1 goes with it, and all others with that
            node.process.wait(timeout=60)
        for host in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", self.namespace(host)], capture_output=True)

    def namespace(self, host: str) -> str:
        return f"rayse-{self.mark}-{host}"

    def inside(self, host: str) -> list[str]:
        """What to put before a command so that it uses this host's network, and ends when we do."""
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace(host)]

    def client_environment(self) -> dict[str, str]:
        """Of a user who may send jobs: the cluster's token is all it takes."""
        return {**os.environ, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    # ---- what a node is made of ---------------------------------------------------------------------------------

    def _lay_cable(self) -> None:
        for host in ADDRESSES:
            _run("ip", "netns", "add", self.namespace(host))
            _run("ip", "-n", self.namespace(host), "link", "set", "lo", "up")
        head, worker = self.namespace(HEAD), self.namespace(WORKER)
        _run("ip", "-n", head, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", worker)
        for host, address in ADDRESSES.items():
            _run("ip", "-n", self.namespace(host), "address", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", self.namespace(host), "link", "set", "eth0", "up")

    def _write_files(self) -> None:
        """Names of hosts (asking a name server that cannot be reached takes seconds each time), token, environment."""
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
            "RAY_TMPDIR": str(temporary),  # where Ray also notes which cluster this machine belongs to
            "RAY_worker_niceness": "0",
        }

    def _ray(self, host: str) -> list[str]:
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
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
