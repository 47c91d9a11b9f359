"""`rayse submit`, `rayse jobs` and `rayse stop`: a recipe as a Ray job.

    client: resolved recipe + Rayse's packages ──Jobs API──► head: python -m pipelines run recipe.yaml
            local sources ──copied by digest, images as folders──► STORE/sources/   (on the disk that all nodes share)

A store that only this machine can read is refused before the job is submitted.
"""

from __future__ import annotations

import copy
import ipaddress
import shutil
import socket
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import yaml

from pipelines import user_functions
from pipelines.console import print_json
from pipelines.data.sources.encodings import readable_name
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.objects import is_url
from pipelines.recipe.reader import Recipe
from pipelines.store.artifacts import Store
from pipelines.store.digests import digest_value
from pipelines.store.files import sync
from pipelines.store.provenance import OURS, folder_of

SHARED_FILE_SYSTEMS = ("nfs", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "efs", "fuse", "9p", "virtiofs", "cifs",
                       "smb")  # fmt: skip


def submit_recipe(recipe: Recipe, *, address: str, flags: dict[str, str | None], detach: bool, as_json: bool) -> int:
    """`rayse submit`: runs a recipe on a cluster and follows its log. Returns the run's exit code (0 when detached).

    address: the cluster's dashboard; flags: further arguments of `rayse run`, None for those that are not set."""
    from cluster import jobs

    store = _shared_store(recipe, address)
    tree = _with_uploads(recipe, store)
    tree["store"] = store.location
    entrypoint = ["python", "-m", "pipelines", "run", "recipe.yaml"]
    for flag, value in flags.items():
        if value is not None:
            entrypoint += [flag, value]
    packages = [folder_of(package) for package in OURS]
    job = jobs.submit(
        address,
        entrypoint,
        packages=packages,
        files={"recipe.yaml": yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)},
        metadata={"rayse_recipe": recipe.name, "rayse_store": store.location},
    )
    if as_json:
        print_json({"job": job, "address": address, "store": store.location})
    else:
        print(f"job {job} on {address}, store {store.location}", file=sys.stderr)
    if detach:
        return 0
    return jobs.follow(address, job, lambda text: print(text, end="", file=sys.stderr, flush=True)).exit_code


def show_jobs(address: str, *, as_json: bool) -> None:
    """`rayse jobs`: prints the cluster's Rayse jobs, as lines or as JSON."""
    from cluster import jobs

    rows = [
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
        return print_json({"jobs": rows})
    for row in rows:
        print(f"{row['id']}  {row['status']:<10} {row['recipe']:<16} {row['started'] or ''}".rstrip())
    if not rows:
        print(f"no jobs on {address}")


def stop_job(address: str, job: str) -> None:
    """`rayse stop`: stops a job."""
    from cluster import jobs

    if jobs.stop_job(address, job):
        print(f"{job}: stopped; submit the recipe again to resume it")
    else:
        print(f"{job}: had ended")


def _shared_store(recipe: Recipe, address: str) -> Store:
    """The recipe's store. Raises UserError if the cluster presumably cannot read it."""
    store = Store(recipe.store)
    if store.remote is not None or is_this_machine(address):
        return store.create()
    kind = file_system(store.root)
    if not kind.startswith(SHARED_FILE_SYSTEMS):
        raise UserError(
            f"store {store.root}: is on a local disk of this machine ({kind}), and the cluster at {address} cannot "
            f"read it; mount a folder that client and nodes share (NFS, Lustre, EFS) and pass it with --store"
        )
    return store.create()


def is_this_machine(address: str) -> bool:
    """Whether the host of an address resolves to this machine."""
    host = urlparse(address if "://" in address else f"http://{address}").hostname or "127.0.0.1"
    try:
        host_addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    interfaces = psutil.net_if_addrs().values()
    local_addresses = {entry.address.split("%")[0] for interface in interfaces for entry in interface}
    return any(str(ip) in local_addresses or ipaddress.ip_address(ip).is_loopback for ip in host_addresses)


def file_system(path: Path) -> str:
    """The type of the file system that holds a path: ext4, nfs4, fuse.juicefs."""
    mounts = [p for p in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def _with_uploads(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The recipe's tree with every local source copied into the store, and its path changed to the copy."""
    tree = copy.deepcopy(dict(recipe.tree))
    for entry in recipe.entries:
        for name, source in {**entry.sources, **entry.references}.items():
            if "path" in tree["sources"][name]:  # other sources come with Rayse or with the environment
                tree["sources"][name]["path"] = _uploaded(recipe.tree["sources"][name]["path"], source, store)
            if source.custom_filters:
                custom = _upload_functions("filters.custom", source.custom_filters, store)
                tree["sources"][name]["filters"]["custom"] = custom
        if custom := getattr(getattr(entry.options, "filters", None), "custom", ()):
            tree["stages"][entry.name]["filters"]["custom"] = _upload_functions("filters.custom", custom, store)
        if function := getattr(entry.options, "function", None):
            (tree["stages"][entry.name]["function"],) = _upload_functions("function", [function], store)
        options: Any = entry.options  # of the type of its stage
        if entry.name == "base" and entry.stage.files is not None and (files := entry.stage.files(options)):
            tree["base"]["model"] = _upload_base(Path(options.model).expanduser(), files, store)
    return tree


def _upload_base(model: Path, files: Iterable[Path], store: Store) -> str:
    """Copies a local model, the files of a folder or a file by itself, into the store. Returns the copy's place."""
    if store.remote is not None:
        kind = "folder" if model.is_dir() else "file"
        raise UserError(
            f"base.model: {model} is a {kind} of this machine, and the store {store.location} is one of objects; "
            f"expected a model's hub id, or a store in a folder that the cluster's nodes share"
        )
    digests = {file.name: store.digests.of(file) for file in files}
    folder = store.root / "sources" / digest_value(digests)[:16]
    for file in files:
        _copy(file, folder / file.name)
    return str(folder if model.is_dir() else folder / model.name)


def _upload_functions(option: str, functions: Iterable[str], store: Store) -> list[str]:
    """Copies the files of the user's functions into the store. Returns the functions in the copies.

    option: that names them, for messages. Raises UserError for a file that cannot be read."""
    read = [user_functions.read(where) for where in functions]
    if read and store.remote is not None:
        raise UserError(
            f"{option}: {read[0].file} is a file of this machine, and the store {store.location} is one of objects; "
            f"expected a store in a folder that the cluster's nodes share"
        )
    return [f"{_upload(Path(function.file), store)}:{function.name}" for function in read]


def _uploaded(paths: str | list[str], source: Source, store: Store) -> list[str]:
    """A source's paths in order, with every local file copied into the store."""
    uploaded: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        local = source.model_copy(update={"path": path})
        if is_url(path):
            uploaded.append(path)
        elif folders := local.folders():
            uploaded += [_upload_folder(top, files, store) for top, files in folders]
        else:
            uploaded += [_upload(file, store) for file in local.files()]
    return list(dict.fromkeys(uploaded))


def _upload_folder(top: Path, files: Iterable[Path], store: Store) -> str:
    """Copies files into one folder of the store under the digest of all, by their names below `top`. Returns its
    place."""
    names: dict[str, Path] = {}
    for file in files:
        if (other := names.setdefault(readable_name(file.relative_to(top).as_posix()), file)) != file:
            raise UserError(f"{file} and {other}: expected names that differ in UTF-8; rename one of them")
    folder = f"sources/{digest_value({name: store.digests.of(file) for name, file in sorted(names.items())})[:16]}"
    if store.remote is None:
        for name, file in names.items():
            _copy(file, store.root / folder / name)
        return str(store.root / folder)
    objects = store.remote.objects
    missing = names.keys() - {entry.key.removeprefix(f"{folder}/") for entry in objects.list(folder)}
    for name in sorted(missing):
        objects.upload(names[name], f"{folder}/{name}")
    if missing and (changed := missing - {entry.key.removeprefix(f"{folder}/") for entry in objects.list(folder)}):
        raise UserError(
            f"{names[min(changed)]}: {objects.url_of(folder)} keeps it under another name (so it does with "
            f"{len(changed)} of {len(names)} files); expected names that it keeps: rename it, without backslashes"
        )
    return objects.url_of(folder)


def _upload(file: Path, store: Store) -> str:
    """Copies a file into the store under its digest, unless an earlier submission did. Returns the copy's place."""
    name = f"sources/{store.digests.of(file)[:16]}/{readable_name(file.name)}"
    if store.remote is None:
        return str(_copy(file, store.root / name))
    objects = store.remote.objects
    if objects.entry(name) is None:
        objects.upload(file, name)
    return objects.url_of(name)


def _copy(file: Path, target: Path) -> Path:
    """Copies a file unless the target exists; a kill leaves no partial target. Returns the target."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}")  # unique on a disk that several machines share
        shutil.copy(file, partial)
        sync(partial)
        partial.rename(target)
    return target
