"""Ray's authentication token: the secret that a local Ray is started with and every client of a cluster must send.

Ray 2.60 keeps it in ~/.ray/auth_token (or RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH). It is never printed and never passed
on a command line; messages name its location only.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any


def location() -> str:
    """Where Ray reads the token from, by Ray's precedence."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the environment variable RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(_home_file())


def ensure(folder: Path) -> None:
    """Creates a token if none exists, readable by the user alone; in `folder` if the home folder is not writable.

    Ray would create one itself, but readable by everybody (mode 644), and fail without a writable home folder.
    """
    from ray._private.authentication import authentication_token_setup

    compiled: Any = authentication_token_setup
    loader = compiled.AuthenticationTokenLoader.instance()
    if loader.has_token(ignore_auth_mode=True):
        return
    try:
        _write(_home_file())
    except OSError:
        private = folder / "auth_token"
        _write(private)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(private)
    loader.reset_cache()


def send() -> None:
    """Makes this process send the token, if it has one, to clusters that it did not start.

    Ray does so only for a cluster that it discovers on this machine, not for an explicit address.
    """
    from ray._private.authentication import authentication_token_setup

    logging.getLogger("ray").setLevel(logging.ERROR)  # else it warns that token authentication gets switched on
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _home_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _write(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another run has just created it
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
