"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    str, typer.Argument(help="The artifact: a stage of the latest run, an alias, or a fingerprint's first letters.")
]
DashboardOpt = Annotated[str, typer.Option(help="Address of the cluster's dashboard, http://HOST:8265.")]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"


KeyFileOpt = Annotated[
    Path | None,
    typer.Option(
        help="File with the API key, or with digests of several. (All users of a machine can read its command lines.)"
    ),
]
ClientKeyOpt = Annotated[
    Path | None, typer.Option("--key-file", help="File with the key that the server requires, the key itself alone.")
]
PlainHttpOpt = Annotated[
    bool, typer.Option("--plain-http", help="Send the key to another host over http:// too, where it can be read.")
]
MaskFeedbackOpt = Annotated[
    bool | None,
    typer.Option(
        "--mask-feedback/--no-mask-feedback", help="Mask personal data in stored feedback: addresses, telephone and "
        "card numbers, and others. Default: mask.",
    ),
]  # fmt: skip
PersonaOpt = Annotated[str | None, typer.Option(help="System message for conversations that have none.")]
ModelsArg = Annotated[
    list[str] | None,
    typer.Argument(
        help="Models or trials: a stage, an alias, or the first letters of a fingerprint. Default: the newest."
    ),
]
PRODUCTION = "production"  # the alias that promote and rollback move by default
AliasOpt = Annotated[str, typer.Option(help="Alias that is moved.")]
DecisionsOfOpt = Annotated[
    str | None,
    typer.Option(
        "--alias", help="Alias that is moved, or whose decisions are listed. Default: production; of a list, all."
    ),
]
PromotedArg = Annotated[
    str | None,
    typer.Argument(
        help="A model or trial: its stage, an alias, or a fingerprint's first letters. Needed but with --list."
    ),
]
ReasonOpt = Annotated[str, typer.Option(help="Reason, for the record of the decision.")]
NoWatchOpt = Annotated[
    bool, typer.Option("--no-watch", help="No server rolls it back where it does worse: for a model that is slower.")
]
ModelArg = Annotated[
    str | None,
    typer.Argument(help="A model or trial: a stage, an alias, or a fingerprint's first letters. Default: the newest."),
]
AccessLogOpt = Annotated[
    Path | None, typer.Option(help="File for one line of JSON a request, without its texts. Default: none is written.")
]
QualitySampleOpt = Annotated[
    float | None, typer.Option(min=0, max=1, help="Fraction of replies whose quality is scored; default: 0.05.")
]
QualityOpt = Annotated[
    Literal["score", "flag", "regenerate"] | None,
    typer.Option(
        help="Use of the scores: score for the metrics, flag (in the replies too), or regenerate low ones. Default: "
        "score."
    ),
]
ServerUrlOpt = Annotated[
    str | None, typer.Option("--url", help="Address of the server, http://HOST:PORT. Default: port 8000 here.")
]
IntervalOpt = Annotated[float, typer.Option(min=0.2, help="Time between two looks, in seconds.")]
OnceOpt = Annotated[bool, typer.Option("--once", help="Look once and exit, after one interval.")]
TopJsonOpt = Annotated[bool, typer.Option("--json", help="Print one line of JSON each look instead of a table.")]
PortOpt = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one. Default: 8000.")
]
HostOpt = Annotated[
    str | None,
    typer.Option(help="Address to listen on; any other than loopback requires an API key. Default: 127.0.0.1."),
]
ServeRecipeOpt = Annotated[
    str | None,
    typer.Option(help="Recipe whose cluster.serve and store this server takes; other options here override them."),
]
AdapterOpt = Annotated[
    list[str] | None,
    typer.Option(help="LoRA adapter of the first model, NAME=ARTIFACT; requests of model NAME get it; repeatable."),
]
ListOpt = Annotated[bool, typer.Option("--list", help="List the decisions so far instead: what was moved, when, why.")]
MaxTurnsOpt = Annotated[
    int | None,
    typer.Option(min=1, help="Latest turns of a conversation that the model sees. Default: the trial's number, or 16."),
]
MaxTokensOpt = Annotated[
    int | None,
    typer.Option(
        min=16, help="Maximum length of a prompt with its reply, in tokens. Default: the trial's, or the context."
    ),
]
GpusOpt = Annotated[
    int | None, typer.Option(min=0, help="Number of GPUs of a replica; 0 serves on the CPU. Default: 0.")
]
GuardOpt = Annotated[
    bool | None,
    typer.Option("--guard/--no-guard", help="Check prompts and replies, and decline unsafe ones. Default: check."),
]
ReplicasOpt = Annotated[
    str | None, typer.Option(help="Number of replicas of each model, or MIN:MAX; MIN may be 0. Default: 1.")
]
RoutersOpt = Annotated[
    int | None,
    typer.Option(min=1, help="Number of routers, where there are several models. Default: 1, on a cluster 2."),
]
AppOpt = Annotated[str | None, typer.Option(help="Name of the Ray Serve application. Default: rayse.")]
RouteOpt = Annotated[str | None, typer.Option(help="Prefix of all paths, such as /chat. Default: /.")]
CanaryOpt = Annotated[str | None, typer.Option(help="Another version and its share of requests: NAME:0.1.")]
ResumeCanaryOpt = Annotated[
    bool,
    typer.Option("--resume-canary", help="Give a canary that was stopped its share again; the decision is recorded."),
]
EmitOpt = Annotated[
    Path | None,
    typer.Option(
        help="File for a Serve config, for `serve deploy` and KubeRay, in place of serving. Other machines, and a "
        "Kubernetes Service, reach that server with --host 0.0.0.0 and --key-file alone."
    ),
]
TemperatureOpt = Annotated[
    float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the most likely token.")
]
BaseOpt = Annotated[
    str | None,
    typer.Option(
        help="Open model to continue on your files: a Hugging Face folder, hub id or GGUF file. Default: a new model."
    ),
]
WhereOpt = Annotated[
    list[str] | None,
    typer.Option(
        help="Only rows with this value: reason=too_long, language=zh, source=NAME, split=set_aside; repeatable."
    ),
]
TrialsOpt = Annotated[
    int | None, typer.Option(min=1, help="Number of trials; with a higher number the earlier ones are kept.")
]
QueryOpt = Annotated[
    str | None, typer.Option(help="Question: show the passages of documents that a served model would get with it.")
]
KnowledgeOpt = Annotated[
    str | None, typer.Option(help="Documents to answer from, what a stage knowledge made. Default: the model's run's.")
]
NoKnowledgeOpt = Annotated[bool, typer.Option("--no-knowledge", help="Answer from the model alone, no documents.")]
MaxPassagesOpt = Annotated[
    int | None,
    typer.Option(min=1, help="Passages in a prompt at most; a small model answers better from 1. Default: 4."),
]
GuardEndpointOpt = Annotated[
    str | None, typer.Option(help="Address of the API of a guard model; its key is read from RAYSE_GUARD_KEY.")
]
GuardModelOpt = Annotated[
    str | None,
    typer.Option(help="Guard model that checks prompts too: its name there, else one of the store, or a folder, which "
                 "this server hosts."),
]  # fmt: skip
GuardFailureOpt = Annotated[
    str | None, typer.Option(help="Prompts that it does not answer: decline or pass. Default: decline.")
]
GuardRepliesOpt = Annotated[
    bool | None,
    typer.Option("--guard-replies/--no-guard-replies", help="Whether it judges replies too. Default: prompts alone."),
]
InitNodesOpt = Annotated[
    str | None, typer.Option(help="Nodes that the recipe is for, with --base: 1x8xH100. Default: this machine.")
]
BestOpt = Annotated[
    Path | None, typer.Option(help="File for the best trial's recipe. Default: best.yaml beside the recipe.")
]
NoWaitOpt = Annotated[
    bool, typer.Option("--no-wait", help="Exit with 3 instead of waiting for another run that makes the same.")
]
KeysOpt = Annotated[
    str | None, typer.Option(help="Name of a stage or of a kind of source, or sweep: explain its keys, with defaults.")
]
LimitOpt = Annotated[int, typer.Option(min=0, help="Maximum number of rows that are shown.")]
