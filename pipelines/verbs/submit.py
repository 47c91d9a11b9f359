"""A recipe as a Ray job: what travels, and following it.

    client: resolved recipe + our packages ──Jobs API──► head: python -m pipelines run recipe.yaml
            local sources ──copied by digest──► STORE/sources/   (the store is the one disk that all nodes share)

A store that only this machine sees is refused before anything is sent.
"""

from __future__ import annotations

import copy
import ipaddress
import os
import shutil
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import yaml

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.recipe.reader import Recipe
from pipelines.store.artifacts import Store
from pipelines.store.digests import digest_value
from pipelines.store.provenance import OURS, folder_of

SHARED_FILE_SYSTEMS = ("nfs", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "efs", "fuse", "9p", "virtiofs", "cifs",
                       "smb")  # fmt: skip


def submit_recipe(recipe: Recipe, *, address: str, flags: dict[str, str | None], detach: bool, as_json: bool) -> int:
    """`rayse submit`: returns the exit code of the run on the cluster (0 when detached)."""
    from cluster import jobs

    store = _shared_store(recipe, address)
    tree = _with_uploads(recipe, store)
    tree["store"] = str(store.root)
    entrypoint = ["python", "-m", "pipelines", "run", "recipe.yaml"]
    for flag, value in flags.items():
        entrypoint += [flag, value] if value is not None else []
    packages = [folder_of(package) for package in OURS]
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
    return jobs.follow(address, job, lambda text: print(text, end="", file=sys.stderr, flush=True)).exit_code


def show_jobs(address: str, *, as_json: bool) -> None:
    """`rayse jobs`."""
    from cluster import jobs

    found = [
        {
            "id": job.id,
            "status": job.status,
            "recipe": job.metadata["rayse_recipe"],
            "store": job.metadata.get("rayse_store"),
            "started": None if job.started is None else datetime.fromtimestamp(job.started, UTC).isoformat()[:19],
        }
        for job in jobs.list_jobs(address)
        if "rayse_recipe" in job.metadata
    ]
    if as_json:
        return print_json({"jobs": found})
    for job in found:
        print(f"{job['id']}  {job['status']:<10} {job['recipe']:<16} {job['started'] or ''}".rstrip())
    if not found:
        print(f"no jobs on {address}")


def stop_job(address: str, job: str) -> None:
    """`rayse stop`."""
    from cluster import jobs

    stopped = jobs.stop_job(address, job)
    print(f"{job}: stopped; submitted again, the recipe goes on where it stood" if stopped else f"{job}: had ended")


def _shared_store(recipe: Recipe, address: str) -> Store:
    """The recipe's store, if the cluster can be expected to see it. Raises UserError otherwise."""
    store = Store(recipe.store)
    if is_this_machine(address):
        return store.create()
    kind = file_system(store.root)
    if not kind.startswith(SHARED_FILE_SYSTEMS):
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
    mounts = [p for p in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def _with_uploads(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The recipe's tree with every local source copied into the store and pointed to there."""
    tree = copy.deepcopy(dict(recipe.tree))
    for entry in recipe.entries:
        for name, source in entry.sources.items():
            if "path" in tree["sources"][name]:  # others come with Rayse or with the environment
                tree["sources"][name]["path"] = [str(_upload(file, store)) for file in source.files()]
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
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copy(file, partial)
        partial.rename(place)
    return place
