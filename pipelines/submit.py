"""A recipe as a Ray job: what travels, and following it.

    client: resolved recipe + our packages ──Jobs API──► head: python -m pipelines run recipe.yaml
            local sources ──copied by digest──► STORE/sources/   (the store is the one disk that all nodes share)

A store that only this machine sees is refused before anything is sent.
"""

from __future__ import annotations

import copy
import ipaddress
import shutil
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import yaml

import cluster
import pipelines
from pipelines.digests import digest_value
from pipelines.errors import UserError
from pipelines.recipe import Recipe
from pipelines.store import Store
from pipelines.verbs import print_json

SHARED_FILE_SYSTEMS = ("nfs", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "efs", "fuse", "9p", "virtiofs", "cifs",
                       "smb")  # fmt: skip
EXIT_CODES = {"SUCCEEDED": 0, "STOPPED": 130}


def submit_recipe(recipe: Recipe, *, address: str, flags: dict[str, str | None], detach: bool, as_json: bool) -> int:
    """`rayse submit`: returns the exit code of the run on the cluster (0 when detached)."""
    from cluster import jobs

    store = _shared_store(recipe, address)
    tree = _with_uploads(recipe, store)
    tree["store"] = str(store.root)
    entrypoint = ["python", "-m", "pipelines", "run", "recipe.yaml"]
    for flag, value in flags.items():
        entrypoint += [flag, value] if value is not None else []
    packages = [Path(package.__path__[0]) for package in (cluster, pipelines)]
    job = jobs.submit(
        address,
        entrypoint,
        packages=packages,
        files={"recipe.yaml": yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)},
        metadata={"rayse_recipe": recipe.name, "rayse_store": str(store.root)},
    )
    if as_json:
        print_json({"job": job, "address": address, "store": str(store.root)})
    else:
        print(f"job {job} on {address}, store {store.root}", file=sys.stderr)
    if detach:
        return 0
    return jobs.follow(address, job, write=lambda text: print(text, end="", file=sys.stderr, flush=True))


def show_jobs(address: str, *, as_json: bool) -> None:
    """`rayse jobs`."""
    from cluster import jobs

    found = jobs.list_jobs(address)
    if as_json:
        return print_json(found)
    for job in found:
        print(f"{job['id']}  {job['status']:<10} {job.get('recipe') or '':<16} {job.get('started') or ''}")
    if not found:
        print(f"no jobs on {address}")


def stop_job(address: str, job: str) -> None:
    """`rayse stop`."""
    from cluster import jobs

    jobs.stop_job(address, job)
    print(f"{job}: stopped; submitted again, the recipe goes on where it stood")


def _shared_store(recipe: Recipe, address: str) -> Store:
    """The recipe's store, if the cluster can be expected to see it. Raises UserError otherwise."""
    store = Store(recipe.store)
    if is_this_machine(address):
        return store.create()
    if not recipe.store.is_absolute() or not (kind := file_system(store.root)).startswith(SHARED_FILE_SYSTEMS):
        kind = file_system(store.root)
        raise UserError(
            f"store {store.root}: lies on this machine's own disk ({kind}), and the cluster at {address} cannot see "
            f"it; mount a folder that client and nodes share (NFS, Lustre, EFS) and pass it with --store"
        )
    return store.create()


def is_this_machine(address: str) -> bool:
    """Whether the host of an address is one of this machine's own."""
    host = urlparse(address if "://" in address else f"http://{address}").hostname or "127.0.0.1"
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses}
    return any(str(ip) in own or ipaddress.ip_address(ip).is_loopback for ip in found)


def file_system(path: Path) -> str:
    """The type of the file system a path lies on: ext4, nfs4, fuse.juicefs."""
    mounts = [p for p in psutil.disk_partitions(all=True) if path.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def _with_uploads(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The recipe's tree with every local source copied into the store and pointed to there."""
    tree = copy.deepcopy(dict(recipe.tree))
    for entry in recipe.entries:
        for name, source in entry.sources.items():
            files = source.files()
            if files:
                tree["sources"][name]["path"] = [str(_upload(file, store)) for file in files]
        if entry.stage.files is not None and (files := entry.stage.files(entry.options)):
            copies = {file.name: store.digests.of(file) for file in files}
            folder = store.root / "sources" / digest_value(copies)[:16]
            for file in files:
                _copy(file, folder / file.name)
            tree["base"]["model"] = str(folder)
    return tree


def _upload(file: Path, store: Store) -> Path:
    """A file's copy in the store, by digest: sent once however often it is submitted."""
    return _copy(file, store.root / "sources" / store.digests.of(file)[:16] / file.name)


def _copy(file: Path, place: Path) -> Path:
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        shutil.copy(file, partial)
        partial.rename(place)
    return place
