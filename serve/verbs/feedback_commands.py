"""The commands `rayse feedback show`, `export` and `delete`: arguments alone; feedback.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOpt = Annotated[str, typer.Option(help="Store whose feedback it is, and the key of its receipts.")]
FeedbackOpt = Annotated[
    str | None,
    typer.Option(
        "--feedback",
        help="PostgreSQL database of users' feedback, postgresql://USER@HOST:PORT/DATABASE, whose password comes from "
        "~/.pgpass or PGPASSWORD; or the path of a SQLite file on a local disk, with a slash; or for `rayse serve` "
        "none. Default: a SQLite file in the store.",
    ),
]
SinceOpt = Annotated[
    str | None,
    typer.Option(help="Time from which on feedback counts, in UTC: 2026-11-01 or 2026-11-01T12:00. Default: all."),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of text.")]

app = typer.Typer(help="Users' feedback: show how much there is, export it as rows of training data, delete a user's.",
                  no_args_is_help=True, rich_markup_mode=None)  # fmt: skip


@app.command()
def show(
    store: StoreOpt = "./store", feedback: FeedbackOpt = None, since: SinceOpt = None, as_json: JsonOpt = False
) -> None:
    """Count feedback by version of the model: thumbs, corrections, reports. Also requests of each key by day."""
    from serve.verbs.feedback import show_feedback

    show_feedback(store, feedback, since=since, as_json=as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The target: a new file of JSON lines.")],
    rows: Annotated[
        str,
        typer.Option(
            help="Kind of rows: preferences (a correction beats the reply; a thumb labels it) or conversations "
            "(corrected and liked replies)."
        ),
    ] = "preferences",
    store: StoreOpt = "./store",
    feedback: FeedbackOpt = None,
    since: SinceOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Write feedback as rows that `rayse init FILE` and recipes read, as preferences or as conversations."""
    from serve.verbs.feedback import export_feedback

    export_feedback(file, rows, store, feedback, since=since, as_json=as_json)


@app.command()
def delete(
    user: Annotated[str, typer.Option(help="Whose feedback: the `user` of the requests, or the name of their key.")],
    store: StoreOpt = "./store",
    feedback: FeedbackOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Delete all feedback on replies to a user, or to the requests of a named key. It cannot be brought back."""
    from serve.verbs.feedback import delete_feedback

    delete_feedback(user, store, feedback, as_json=as_json)
