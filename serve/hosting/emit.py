"""`rayse serve --emit`: a Serve config with the server's application, for `serve deploy` and KubeRay's RayService.

The file is a Serve config; RayService takes its text as it is in `serveConfigV2`. Models and guards are named by their
artifacts' folders, and fetched from the store on each node where it is s3:// or gs://.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import UserError
from serve.settings import SHARED, Settings

IMPORT_PATH = "serve.hosting.deployment:build"
CLUSTER = "cluster"  # in place of an address: the cluster that the config is deployed to
SECRETS: Any = {"guard_endpoint": {"key"}}  # a replica reads it from its node's environment


def config(settings: Settings) -> dict[str, Any]:
    """The Serve config. Raises UserError for a server whose keys would stand in the file, which others may read."""
    if settings.key is not None and not settings.keys:
        raise UserError("--emit: the key would stand in the file; expected --key-file with lines NAME SHA256, which "
                        "hold digests only")  # fmt: skip
    if any(model.canary for model in settings.models):
        raise UserError("--canary: not together with --emit, as only a running `rayse serve` watches a canary and "
                        "stops it; leave one out")  # fmt: skip
    placed = {"address": settings.address or CLUSTER, "key": None, "logs": None, "cache": None}
    arguments = settings.model_copy(update=placed).model_dump(mode="json", exclude_defaults=True, exclude=SECRETS)
    arguments["others"] = [
        other.model_dump(mode="json", exclude_defaults=True, exclude=SECRETS | dict.fromkeys(SHARED, True))
        for other in settings.others
    ]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.port},
        "applications": [
            {"name": settings.app, "route_prefix": settings.route, "import_path": IMPORT_PATH, "args": arguments}
        ],
    }


def reach(settings: Settings) -> str:
    """Who reaches a server that is deployed from the config, and what others need; empty where others do."""
    if not settings.loopback:
        return ""
    hosts = "" if settings.keys else ", and requests with another Host than localhost get 403 (foreign_host)"
    return (f"listens on {settings.host} of each node, where only programs of that node reach it, and no Service of "
            f"Kubernetes{hosts}. For others, write it with --host 0.0.0.0 and --key-file FILE, which has lines NAME "
            f"SHA256")  # fmt: skip


def write(settings: Settings, file: Path) -> None:
    """Writes the Serve config as YAML, checked against Ray Serve's schema, with a comment on who reaches it. Raises
    UserError where a file is there."""
    from ray.serve.schema import ServeDeploySchema

    text = yaml.safe_dump(config(settings), sort_keys=False, allow_unicode=True)
    ServeDeploySchema.model_validate(yaml.safe_load(text))
    if file.exists():
        raise UserError(f"--emit {file}: exists already; expected a new file")
    if note := reach(settings):
        comment = textwrap.fill(f"This server {note}.", 100, initial_indent="# ", subsequent_indent="# ",
                                break_on_hyphens=False)  # fmt: skip
        text = f"{comment}\n{text}"
    file.write_text(text, encoding="utf-8")
