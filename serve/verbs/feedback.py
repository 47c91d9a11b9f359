"""What `rayse feedback` does: counts feedback, exports it as training rows, deletes a user's.

    feedback ──correction──► {prompt, chosen: the correction, rejected: the reply}
             ──thumb alone─► {prompt, completion: the reply, label: true | false}        (KTO)

Feedback whose texts are not known (only the receipt's digests of them) makes no row, and is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from pipelines.data.tokens.chat_messages import Message, reply_message
from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from serve.gateway import receipts
from serve.gateway.database import Database, DatabaseError, open_database
from serve.gateway.feedback import FeedbackStore
from serve.gateway.keys import DAY_S, Access
from serve.settings import RECEIPT_KEY_FILE, feedback_place

NO_TEXTS, NOT_LIKED = "without texts", "neither corrected nor liked"


def show_feedback(store: str, url: str | None, *, since: str | None, as_json: bool) -> None:
    """`rayse feedback show`: prints the number of replies by version and thumb, and the use of keys by day."""
    after = _time(since)
    with _opened(store, url) as database:
        rows, use = FeedbackStore(database).counts(after), Access((), database).use_by_day(after)
    versions: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        counts = versions.setdefault((row["model"], row["version"]), Counter())
        names = [
            row["thumb"],
            *(["corrected"] * row["corrected"]),
            *([f"report {row['report']}"] * bool(row["report"])),
        ]
        counts.update(dict.fromkeys(names, row["number"]))
    listed = [{"model": model, "version": version, **counts} for (model, version), counts in versions.items()]
    days = [{"key": row["name"], "day": _day(row["number"]), "requests": row["requests"]} for row in use]
    if as_json:
        return _print_json({"versions": listed, "requests": days})
    for (model, version), counts in versions.items():
        print(f"{model} {version[:8]}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    for day in days:
        print(f"key {day['key']}: {day['requests']} requests on {day['day']}")
    if not listed and not days:
        print("no feedback yet")


def export_feedback(file: Path, rows: str, store: str, url: str | None, *, since: str | None, as_json: bool) -> None:
    """`rayse feedback export`: writes rows of preferences or conversations to a new file, all or none of it."""
    make_row = {"preferences": preference_row, "conversations": conversation_row}.get(rows)
    if make_row is None:
        raise UserError(f"--rows {rows}: no such kind of rows; expected preferences or conversations")
    if file.exists():
        raise UserError(f"{file}: exists; name a new file")
    after = _time(since)
    partial = file.with_name(f".{file.name}.partial")
    num_rows, left_out = 0, Counter[str]()
    with _opened(store, url) as database:
        try:
            with partial.open("w", encoding="utf-8") as stream:
                for made in map(make_row, FeedbackStore(database).each(after)):
                    if isinstance(made, str):
                        left_out[made] += 1
                    else:
                        stream.write(json.dumps(made, ensure_ascii=False) + "\n")
                        num_rows += 1
            partial.rename(file)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror}); choose another file") from None
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    if as_json:
        return _print_json({"file": str(file), "rows": num_rows, "left_out": dict(left_out)})
    print(f"{num_rows} rows -> {file}")
    for reason, number in left_out.items():
        print(f"left out: {number} {reason}")


def delete_feedback(user: str, store: str, url: str | None, *, as_json: bool) -> None:
    """`rayse feedback delete`: deletes the feedback on replies to a user, or to the requests of a key of that name."""
    place = Store(store)
    key_file = place.root / RECEIPT_KEY_FILE
    if not key_file.exists() and (place.remote is None or place.read(RECEIPT_KEY_FILE) is None):
        raise UserError(f"{place.location}/{RECEIPT_KEY_FILE}: no such file; users are stored under digests that need "
                        f"it. Pass the store of the servers with --store")  # fmt: skip
    digest = receipts.pseudonym(user, receipts.shared_key(key_file, store))
    with _opened(store, url) as database:
        number = FeedbackStore(database).delete_user(digest)
    if as_json:
        return _print_json({"user": user, "deleted": number})
    print(f"deleted the feedback on {number} replies to {user}")


def preference_row(row: dict[str, Any]) -> dict[str, Any] | str:
    """A pair of the correction and the reply, else a labelled reply; the reason where it makes no row."""
    if row["prompt"] is None or not _has_reply(row):
        return NO_TEXTS
    # A reply that calls tools is a turn, which holds its calls; any other its text.
    reply = [_turn(row)] if row["tool_calls"] else row["reply"]
    if _is_corrected(row):
        chosen = [reply_message(row["correction"])] if row["tool_calls"] else row["correction"]
        return _facts(row) | {"prompt": row["prompt"], "chosen": chosen, "rejected": reply}
    return _facts(row) | {"prompt": row["prompt"], "completion": reply, "label": row["thumb"] == "up"}


def conversation_row(row: dict[str, Any]) -> dict[str, Any] | str:
    """A prompt with its correction, or with a reply that was liked; the reason where it makes no row."""
    if row["prompt"] is None or not _has_reply(row):
        return NO_TEXTS
    if not _is_corrected(row) and row["thumb"] != "up":
        return NOT_LIKED
    reply = reply_message(row["correction"]) if _is_corrected(row) else _turn(row)
    prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
    return _facts(row) | {"messages": [*prompt, reply]}


def _is_corrected(row: dict[str, Any]) -> bool:
    return row["correction"].strip() not in ("", row["reply"].strip())


def _has_reply(row: dict[str, Any]) -> bool:
    return bool(row["reply"] or row["tool_calls"])


def _turn(row: dict[str, Any]) -> Message:
    """The reply as the assistant's turn, with its calls of tools."""
    return reply_message(row["reply"], row["tool_calls"])


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """The tools that the reply could call, and columns that no stage reads, for whoever looks at the file."""
    tools = {"tools": row["tools"]} if row["tools"] else {}
    return tools | {
        "id": row["reply_id"],
        "version": row["version"],
        "report": row["report"],
        "comment": row["comment"],
    }


@contextmanager
def _opened(store: str, url: str | None) -> Iterator[Database]:
    file, url = feedback_place(Store(store).root, url)
    if url is None and not file.exists():
        raise UserError(f"{file}: no such file, so there is no feedback; pass the store with --store, or the database "
                        f"with --feedback")  # fmt: skip
    try:
        database = open_database(file, url)
        try:
            yield database
        finally:
            database.close()
    except DatabaseError as error:
        raise ClusterError(f"feedback: {error}") from None


def _time(since: str | None) -> float:
    """Seconds since 1970 of a time in UTC; 0 for none."""
    try:
        time = datetime.fromisoformat(since) if since else datetime.fromtimestamp(0, UTC)
    except ValueError:
        raise UserError(f"--since {since}: expected a time such as 2026-11-01 or 2026-11-01T12:00") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).date().isoformat()


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
