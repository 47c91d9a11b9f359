"""Receipts: what a reply says of its origin, signed, so that any replica takes feedback on it, also after a restart.

    facts of a reply ──sign──► "eyJpZCI6….MEUCIQ…" ──client──► /feedback {"receipt": …} ──read──► the same facts

A receipt is JSON in Base64, a point, and its HMAC-SHA256: anyone may read it, only a holder of the key can make one. It
holds digests of prompt and reply, not their texts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.store.artifacts import Store

KEY_BYTES = 32
MAX_AGE_S = 30 * 24 * 3600.0
MAX_CHARACTERS = 8000


class InvalidReceipt(ValueError):
    """A receipt that is no receipt of this server's, or too old."""


def digest(value: Any) -> str:
    """SHA-256 of a prompt or a reply, in hex: of its JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pseudonym(name: str, key: bytes) -> str:
    """What stands for a user's or a key's name on disk and in receipts: a keyed digest, so that nobody without the key
    can try names. Empty for none."""
    return hmac.digest(key, b"name:" + name.encode("utf-8", "replace"), "sha256").hex()[:32] if name else ""


def template_digest(model: Path) -> str:
    """SHA-256 of the file with a model's chat template, in hex."""
    file = model / "chat_template.jinja"
    return hashlib.sha256((file if file.is_file() else model / "tokenizer_config.json").read_bytes()).hexdigest()


def open_key(file: Path) -> bytes:
    """The key in a file, which is made at the first call, readable by its owner alone.

    Replicas that start together agree on one key. Raises UserError where others can read the file, or it holds none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as output:
            output.write(secrets.token_hex(KEY_BYTES) + "\n")
            output.flush()
            os.fsync(output.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            pass  # another replica was first: its key counts
        finally:
            draft.unlink()
    if file.stat().st_mode & 0o077:
        raise UserError(
            f"{file}: others can read this key of receipts (mode {file.stat().st_mode & 0o777:o}); expected mode 600. "
            f"Remove the file, and a new key is made; receipts signed so far are then refused"
        )
    try:
        return _key(file.read_bytes(), str(file))
    except PermissionError:
        raise UserError(
            f"{file}: this key of receipts is another user's, and cannot be read. Run the server as that user, or "
            f"remove the file, and a new key is made; receipts signed so far are then refused"
        ) from None


def shared_key(file: Path, location: str | None) -> bytes:
    """The key of all servers of a store: in a file of its folder, or an object of its bucket, where the machine that
    is first puts its key. Who can read the bucket can read it.

    file: of this machine, as open_key takes it. location: of the store; None without one. Raises UserError."""
    store = Store(location) if location is not None else None
    if store is None or store.remote is None:
        return open_key(file)
    text = store.read(file.name)
    if text is None:
        store.remote.objects.create(file.name, open_key(file).hex().encode())
        text = store.read(file.name) or ""
    return _key(text.encode(), f"{store.location}/{file.name}")


def _key(text: bytes, place: str) -> bytes:
    try:
        key = bytes.fromhex(text.decode())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UserError(f"{place}: expected a key of {KEY_BYTES} bytes in hex; remove it, and a new one is made")
    return key


def sign(facts: dict[str, Any], key: bytes) -> str:
    """The receipt of these facts. Its `time` is in seconds since 1970."""
    payload = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return f"{_encode(payload)}.{_encode(hmac.digest(key, payload, 'sha256'))}"


def read(receipt: str, key: bytes, *, now: float | None = None) -> dict[str, Any]:
    """The facts of a receipt. Raises InvalidReceipt where it was not signed with this key, or is too old."""
    payload_text, _, signature_text = receipt.partition(".")
    try:
        payload, signature = _decode(payload_text), _decode(signature_text)
    except (ValueError, binascii.Error):
        raise InvalidReceipt("is no receipt; expected one as a reply carries it, unchanged") from None
    if not hmac.compare_digest(hmac.digest(key, payload, "sha256"), signature):
        raise InvalidReceipt("was changed, or is another server's: its signature does not fit")
    facts = json.loads(payload)
    age_s = (time.time() if now is None else now) - facts["time"]
    if age_s > MAX_AGE_S:
        raise InvalidReceipt(f"is {age_s / 86400:.0f} days old; expected at most {MAX_AGE_S / 86400:.0f}")
    return facts


def unverified(receipt: Any) -> dict[str, Any]:
    """What a receipt says, whoever signed it: enough to find out whom to ask. Empty for what is no receipt."""
    try:
        facts = json.loads(_decode(receipt.partition(".")[0]))
    except (AttributeError, ValueError, RecursionError):  # binascii.Error is a ValueError
        return {}
    return facts if isinstance(facts, dict) else {}


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
