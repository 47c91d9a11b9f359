"""cluster/session.py: a local Ray that is private and always ends, and clusters that are joined."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import reaper
from cluster.errors import ClusterError
from cluster.session import Session, default_object_store_bytes
from tests.cluster.conftest import ROOT, Head, run_driver
from tests.runs import wait_until

FOREVER = """
import os, subprocess, sys, time
from pathlib import Path
import ray
from cluster.session import Session

class Busy:
    def start(self):
        self.child = subprocess.Popen(["sleep", "1000"])
        return os.environ["RAYSE_SESSION"]
    def spin(self):
        while True:
            pass

with Session(logs=Path(sys.argv[1]), on_message=lambda text: None):
    busy = ray.remote(Busy).remote()
    mark = ray.get(busy.start.remote())
    busy.spin.remote()
    print(mark, flush=True)
    time.sleep(1000)
"""


def test_a_session_that_is_not_started_does_not_import_ray() -> None:
    code = "import sys; from cluster.session import Session; s = Session(); assert s.local and not s.started;"
    done = run_driver(code + "print(s.describe()); assert 'ray' not in sys.modules")
    assert done.stdout == "Ray (local): not started\n"


def test_a_local_session_describes_its_resources(session: Session) -> None:
    assert session.started and session.local and 0 < session.start_s < 120
    assert session.start() is session  # a second start has no effect
    (node,) = session.nodes()
    assert (node.address, node.cpus, node.gpus) == ("127.0.0.1", 4, 0)
    assert node.memory_bytes > 1e9
    assert re.match(r"Ray \S+, local, in [0-9.]+ s: 1 node, 4 logical CPUs, 0 GPUs; logs: /", session.describe())


def test_a_local_session_listens_on_loopback_only_and_leaves_the_environment_alone(session: Session) -> None:
    import ray

    mark = ray.get(ray.remote(os.getenv).options(num_cpus=0).remote(reaper.VARIABLE))
    assert mark
    wait_until(lambda: len(reaper.marked(mark)) >= 4)  # the head's daemons and the worker that just replied
    assert not [line for line in commands(mark) if re.search(r"ray/dashboard/\S+\.py|monitor\.py", line)]
    wait_until(lambda: len(listening_addresses(mark)) > 4)  # agents listen a while after Ray says that it has started
    addresses = listening_addresses(mark)
    assert all(ip in ("127.0.0.1", "::ffff:127.0.0.1", "::1") for ip in addresses), addresses
    assert reaper.VARIABLE not in os.environ and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


def test_the_state_api_fails_as_no_server_listens_and_does_not_wait_for_its_address(session: Session) -> None:
    import ray
    from ray.util.state import list_tasks
    from ray.util.state.exception import ServerUnavailable

    with pytest.raises(ServerUnavailable):  # without an address: ValueError, after 40 s
        list_tasks(address=ray.get_runtime_context().gcs_address)


def commands(mark: str) -> list[str]:
    """The command lines of a local Ray's processes. The raylet's has those of the daemons that it starts, too."""
    pids = reaper.marked(mark)
    return [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["pid", "cmdline"])
            if process.info["pid"] in pids]  # fmt: skip


def listening_addresses(mark: str) -> list[str]:
    """The addresses on which this process and those of a local Ray listen."""
    addresses = []
    for process in [*reaper.marked(mark), os.getpid()]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            connections = psutil.Process(process).net_connections()
            addresses += [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
    return addresses


def test_a_ray_to_which_this_process_is_connected_is_used_and_left_running(session: Session) -> None:
    import ray

    with Session(on_message=lambda text: None) as second:
        assert second.nodes() == session.nodes()
    assert ray.is_initialized()


@pytest.mark.chaos
def test_a_killed_driver_leaves_no_process_of_its_ray_behind(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", FOREVER, str(tmp_path)],
        cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout
    mark = driver.stdout.readline().strip()
    wait_until(lambda: len(reaper.marked(mark)) >= 5, driver)  # one of them: what the actor started
    (link,) = tmp_path.iterdir()
    folder = link.readlink().parent.parent
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not reaper.marked(mark) and not folder.exists(), within_s=60)
    assert not link.is_symlink() and (link / "raylet.out").is_file()  # the logs are kept


def test_it_works_without_a_home_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
import json, os, ray
from pathlib import Path
from cluster import reaper
from cluster.session import Session
session = Session(logs=Path({str(tmp_path)!r}), on_message=lambda text: None)
with session:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    facts = dict(mode=token.stat().st_mode & 0o777, auth=os.environ["RAY_AUTH_MODE"])
    facts["mark"] = ray.get(ray.remote(os.getenv).remote("RAYSE_SESSION"))
print(json.dumps(facts | dict(left=len(reaper.marked(facts["mark"])), token=token.exists(), started=session.started)))
"""
    done = run_driver(code, variables={"HOME": "/proc/no-home"})
    facts = json.loads(done.stdout)
    assert (facts["mode"], facts["auth"], facts["left"]) == (0o600, "token", 0)
    assert not facts["token"] and not facts["started"]
    assert [path.is_symlink() for path in tmp_path.iterdir()] == [False]


def test_a_new_token_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    code = "from pathlib import Path; from cluster import token; token.ensure(Path('/proc/never'));"
    done = run_driver(code + "print(token.location())", variables={"HOME": str(tmp_path)})
    file = tmp_path / ".ray" / "auth_token"
    assert done.stdout.strip() == str(file)
    assert file.stat().st_mode & 0o777 == 0o600 and len(file.read_text()) == 64


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: no route to the cluster"),
        ("http://127.0.0.1:8265", "is for `rayse submit`"),
        ("nowhere", "Expected host:6379"),
    ],
)
def test_an_address_without_a_cluster_is_refused_soon(address: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=message):
        Session(address).start()
    assert time.monotonic() - begin < 12


def test_the_object_store_is_bounded() -> None:
    assert 75_000_000 < default_object_store_bytes() <= 8_000_000_000


JOIN = """
import sys
from pathlib import Path
from cluster.session import Session
{before}
session = Session({address!r}, packages=[Path({package!r})], on_message=lambda text: None)
with session:
    import ray
    def where():
        import cluster
        return cluster.__file__
    sys.path.clear()
    print(session.local, len(session.nodes()), ray.get(ray.remote(where).remote()))
"""


def join(head: Head, before: str = "", variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a driver that joins the head. before: code that it runs first."""
    code = JOIN.format(address=head.address, package=str(ROOT / "cluster"), before=before)
    return run_driver(code, check=False, variables=variables)


def test_a_joined_cluster_receives_our_packages(head: Head) -> None:
    done = join(head)
    assert done.returncode == 0, done.stderr
    local, nodes, path = done.stdout.split()
    assert (local, nodes) == ("False", "1")
    assert "py_modules_files" in path, path


def test_another_version_is_refused(head: Head) -> None:
    done = join(head, before="import ray; ray.__version__ = '1.0.0'")
    assert "ClusterError" in done.stderr and "Expected the same Ray" in done.stderr, done.stderr


def test_a_wrong_token_is_refused(head: Head) -> None:
    done = join(head, variables={"RAY_AUTH_TOKEN": "0" * 64})
    assert "ClusterError" in done.stderr and "RAY_AUTH_TOKEN" in done.stderr, done.stderr


SHARED = """
import sys
from pathlib import Path
from cluster.session import Session
with Session({address!r}, packages=[Path({package!r})], on_message=lambda text: None) as session:
    print(len(session.nodes()))
    for folder in sys.argv[1:]:
        try:
            session.check_shared(Path(folder))
            print("shared")
        except Exception as error:
            print(type(error).__name__, error)
session = Session({address!r}, packages=[Path({package!r})], shared=Path(folder), on_message=lambda text: None)
try:
    session.start()
except Exception as error:
    print(type(error).__name__, session.started)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="hiding a folder from a node needs root")
def test_a_folder_that_a_node_does_not_share_is_refused(head: Head, tmp_path: Path) -> None:
    both, hidden = tmp_path / "both", tmp_path / "hidden"
    both.mkdir()
    hidden.mkdir()
    hide = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    code = SHARED.format(address=head.address, package=str(ROOT / "cluster"))
    with head.another_node(prefix=["unshare", "-m", "bash", "-c", hide, "--"]):
        code = f"import sys; sys.argv[1:] = {[str(both), str(hidden)]!r}\n" + code
        nodes, *lines = run_driver(code).stdout.splitlines()
    assert (nodes, lines[0]) == ("2", "shared")
    assert re.match(rf"ClusterError {hidden}: node \S+ \(\S+\) does not see a file .* name it with --store$", lines[1])
    assert lines[2] == "ClusterError False"
    assert list(both.iterdir()) == list(hidden.iterdir()) == []
