"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArg = Annotated[
    str, typer.Argument(help="The recipe: a YAML file, or the name of one that comes with Rayse, such as demo.")
]
StoreOpt = Annotated[
    str | None,
    typer.Option(
        help="Store of all artifacts: a folder that all nodes share, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. "
        "Default: the recipe's `store:`."
    ),
]
ReadStoreOpt = Annotated[
    str | None,
    typer.Option(
        "--store", help="Store of all artifacts: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. Default: ./store."
    ),
]
SeedOpt = Annotated[int | None, typer.Option(help="Random seed, instead of the recipe's `seed:`.")]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the recipe, such as pretrain.budget_tokens=1000000; repeatable."),
]
UntilOpt = Annotated[str | None, typer.Option(help="Last stage to run, its evaluation included. Default: all stages.")]
FromOpt = Annotated[
    str | None, typer.Option("--from", help="Remake this stage and all later ones; old artifacts are set aside.")
]
ForceOpt = Annotated[
    str | None, typer.Option(help="Remake this stage and all that depend on it; old artifacts are set aside.")
]
AddressOpt = Annotated[
    str | None,
    typer.Option(help="Address of a running Ray cluster, HOST:6379. Default: Ray on this machine, for this command."),
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of text.")]
PlanNodesOpt = Annotated[
    str | None,
    typer.Option(
        help="Nodes to plan for: 1x8xH100, your own accelerator as 1x8xNAME:48GiB:180TFLOPS, CPU cores as "
        "2x16xCPU:64GiB. Default: this machine."
    ),
]
CardOpt = Annotated[
    bool, typer.Option("--card", help="Data card of a corpus in short: sources, reasons, lengths, samples, duplicates.")
]
NameArg = Annotated[
    str, typer.Argument(help="The artifact: a stage of the latest run, or the first letters of a fingerprint.")
]
DashboardOpt = Annotated[str, typer.Option(help="Address of the cluster's dashboard, http://HOST:8265.")]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"


KeyFileOpt = Annotated[
    Path | None,
    typer.Option(
        help="File with the API key, or with digests of several. (All users of a machine can read its command lines.)"
    ),
]
FeedbackOpt = Annotated[
    str | None,
    typer.Option(
        help="PostgreSQL database for users' feedback, postgresql://USER@HOST:PORT/DATABASE; the password comes from "
        "~/.pgpass or PGPASSWORD. Default: a SQLite file in the store."
    ),
]
MaskFeedbackOpt = Annotated[
    bool, typer.Option(help="Mask personal data in stored feedback: addresses, telephone and card numbers, and others.")
]
PersonaOpt = Annotated[str | None, typer.Option(help="System message for conversations that have none.")]
ModelArg = Annotated[
    str | None,
    typer.Argument(help="A model or trial: its stage, or the first letters of a fingerprint. Default: the newest."),
]
