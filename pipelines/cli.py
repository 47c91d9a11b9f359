"""The command line: parses arguments, calls a verb, and turns errors into messages and exit codes.

Imports are inside the functions, so that `rayse --help` answers in under a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.termination import sigterm_interrupts
from pipelines.exit_codes import exit_codes
from pipelines.verbs.arguments import (
    LOCAL_DASHBOARD,
    AddressOpt,
    CardOpt,
    DashboardOpt,
    FeedbackOpt,
    ForceOpt,
    FromOpt,
    JsonOpt,
    KeyFileOpt,
    MaskFeedbackOpt,
    ModelArg,
    NameArg,
    PersonaOpt,
    PlanNodesOpt,
    QuietOpt,
    ReadStoreOpt,
    RecipeArg,
    SeedOpt,
    SetOpt,
    StoreOpt,
    UntilOpt,
)
from serve.verbs import feedback_commands

if TYPE_CHECKING:
    from pipelines.recipe.reader import Recipe, RecipeTemplate
    from pipelines.stage import Stage
    from pipelines.store.artifacts import Store


class _Verbs(TyperGroup):
    """The group of all commands; errors in any of them become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        with sigterm_interrupts(), exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    name="rayse",
    cls=_Verbs,
    help="Trains language models on Ray: from raw text to an aligned, quantised, served chat model, from one recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with `rayse run demo`, or `rayse init YOUR_FILES…`. Exit codes: 0 done, 2 the input is wrong, "
    "3 the cluster or machine failed, 130 interrupted by Ctrl-C or SIGTERM.",
)
app.add_typer(feedback_commands.app, name="feedback")


@app.command()
def run(
    recipe: RecipeArg,
    until: UntilOpt = None,
    from_: FromOpt = None,
    force: ForceOpt = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    address: AddressOpt = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Exit with 3 instead of waiting for another run that makes the same.")
    ] = False,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Run every stage whose artifact is not in the store yet, in order.

    After a kill or Ctrl-C the same command resumes from the last checkpoint; finished stages are never run twice.
    """
    from pipelines.verbs.run import run_recipe

    record = run_recipe(_load(recipe, set_, store, seed), until=until, from_=from_, force=force, address=address,
                        wait=not no_wait, quiet=quiet)  # fmt: skip
    if as_json:
        from pipelines.console import print_json

        print_json(record.model_dump())


@app.command()
def plan(
    recipe: RecipeArg,
    until: UntilOpt = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    nodes: PlanNodesOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show which stages would run, and what those that train would take: memory of a rank, disk, time.

    Runs no stage, and needs a base's config.json alone. Exits with 2 where a stage cannot fit, naming what would.
    """
    from pipelines.verbs.plan import show_plan

    show_plan(_load(recipe, set_, store, seed), until=until, nodes=nodes, as_json=as_json)


@app.command()
def sweep(
    recipe: RecipeArg,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials; with a higher number the earlier ones are kept.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Last stage of a trial, its evaluation included.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the best trial's recipe. Default: best.yaml beside the recipe.")
    ] = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    address: AddressOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Search the values of a recipe's search spaces with Ray Tune. The best trial is an ordinary artifact.

    A search space replaces the value it varies: `pretrain: {learning_rate: {log_uniform: [1e-3, 1e-1],
    default: 0.02}}`; also choose: [a, b, …], uniform: [from, to], range: [from, to, step]. `sweep: {metric:
    heldout/bits_per_byte, trials: 8}` names the metric that ranks trials. Trials share the stages that do not vary, and
    the worse ones are stopped early. After a kill the same command resumes.
    """
    from pipelines.console import print_json
    from pipelines.report.sweep import facts, print_sweep
    from pipelines.verbs.sweep import sweep_recipe

    overrides = list(set_ or ())
    if trials is not None:
        overrides.append(f"sweep.trials={trials}")
    if until is not None:
        overrides.append(f"sweep.until={until}")
    record, best = sweep_recipe(_read(recipe, overrides, store, seed), out=out, address=address, quiet=quiet)
    if as_json:
        return print_json({**facts(record), "best_recipe": str(best)})
    return print_sweep(record, best)


@app.command()
def report(
    store: ReadStoreOpt = None,
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe: report on its latest run.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the page. Default: report.html in the store.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Report on the latest run. Prints a table, and writes report.html with plots and samples."""
    from pipelines.verbs.report import show_report

    show_report(_store(store), recipe=recipe, out=out, as_json=as_json)


@app.command()
def lineage(name: NameArg, store: ReadStoreOpt = None, as_json: JsonOpt = False) -> None:
    """Show the provenance of an artifact. Its parents down to the sources, with code, packages and machine."""
    from pipelines.verbs.inspect import show_lineage

    show_lineage(_store(store), name, as_json=as_json)


@app.command()
def inspect(
    name: NameArg,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only rows with this value: reason=too_long, language=zh, source=NAME, split=set_aside; repeatable."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of rows that are shown.")] = 20,
    card: CardOpt = False,
    store: ReadStoreOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show rows of a corpus, of conversations or of preferences. Those that are used, and those set aside, with why."""
    from pipelines.verbs.inspect_rows import show_rows

    show_rows(_store(store), name, where=where or (), limit=limit, card=card, as_json=as_json)


@app.command()
def ls(store: ReadStoreOpt = None, as_json: JsonOpt = False) -> None:
    """List the artifacts and drafts of the store. Shows the process that works on a draft."""
    from pipelines.verbs.inspect import show_store

    show_store(_store(store), as_json=as_json)


@app.command()
def export(
    name: NameArg,
    folder: Annotated[Path, typer.Argument(help="The target: a new or empty folder.")],
    store: ReadStoreOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Copy an artifact's files to a folder. A model becomes a plain Hugging Face folder that any tool opens."""
    from pipelines.verbs.export import export_artifact

    export_artifact(_store(store), name, folder, as_json=as_json)


@app.command()
def serve(
    name: ModelArg = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than loopback requires an API key.")
    ] = "127.0.0.1",
    store: ReadStoreOpt = None,
    key_file: KeyFileOpt = None,
    persona: PersonaOpt = None,
    max_turns: Annotated[
        int | None, typer.Option(min=1, help="Number of latest turns of a conversation that the model sees.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=16, help="Maximum length of a prompt with its reply, in tokens.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="Number of GPUs for the model; 0 serves on the CPU.")] = 0,
    guard: Annotated[bool, typer.Option(help="Check prompts and replies, and decline unsafe ones.")] = True,
    feedback: FeedbackOpt = None,
    mask_feedback: MaskFeedbackOpt = True,
    as_json: JsonOpt = False,
) -> None:
    """Serve a model: OpenAI-compatible API and chat page. Also feedback, health and metrics. Ctrl-C stops it."""
    from serve.verbs import commands

    keys = commands.read_server_keys(key_file)
    settings = commands.load_settings(
        _store(store), name, port=port, host=host, persona=persona, max_turns=max_turns, max_tokens=max_tokens,
        gpus=gpus, guard=guard, feedback_url=feedback, mask_feedback=mask_feedback, **keys,
    )  # fmt: skip
    commands.serve(settings, as_json=as_json)


@app.command()
def chat(
    name: ModelArg = None,
    url: Annotated[str | None, typer.Option(help="Address of a running server, http://HOST:PORT.")] = None,
    store: ReadStoreOpt = None,
    key_file: KeyFileOpt = None,
    persona: PersonaOpt = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.7,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = None,
) -> None:
    """Chat with a model in the terminal. /reset starts anew, /quit or Ctrl-D leaves, Ctrl-C stops a reply.

    Talks to the server at --url, or on port 8000 of this machine, or starts a server for this chat.
    """
    from serve.verbs import commands

    options = {"persona": persona, "temperature": temperature}
    if max_tokens:
        options["max_tokens"] = max_tokens
    is_running = url is not None or (name is None and commands.is_ready())
    settings = None if is_running else lambda: commands.load_settings(_store(store), name, port=0)
    commands.chat(settings, url, commands.read_key(key_file), **options)


@app.command()
def init(
    data: Annotated[list[str], typer.Argument(help="Your files or folders: text, JSON lines, tables, and others.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Open model to continue on your files: a Hugging Face folder, hub id or GGUF file. Default: "
            "a new model."
        ),
    ] = None,
    nodes: Annotated[
        str | None, typer.Option(help="Nodes that the recipe is for, with --base: 1x8xH100. Default: this machine.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File for the recipe; it must not exist.")] = Path("recipe.yaml"),
    as_json: JsonOpt = False,
) -> None:
    """Write a starter recipe for your files. Shows sample rows, and what a run would use of each file and what not.

    Exits with 2 where nothing of a file was understood. With --base, the stages that your files are for (text:
    pretrain; conversations: sft; preference pairs: dpo), so that they fit the nodes. For a new model the sizes follow
    from the amount of text.
    """  # fmt: skip
    from pipelines.errors import UserError
    from pipelines.verbs import init, starter_base, starter_sources

    files = starter_sources.local_files(data)
    if base is not None:
        return starter_base.write_recipe(files, base, nodes, out, _stages(), as_json=as_json)
    if nodes is not None:
        raise UserError("--nodes: a new model's size follows from the amount of text; expected together with --base")
    init.write_recipe(files, out, as_json=as_json)


@app.command()
def recipe(
    keys: Annotated[
        str | None, typer.Option(help="Name of a stage or of a kind of source: explain its keys, with defaults.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    show: Annotated[str | None, typer.Option(help="Name of a recipe that comes with Rayse: print it.")] = None,
) -> None:
    """Explain the keys of recipes. Without options, list the stages, kinds of sources and recipes."""
    from pipelines.verbs.explain import explain_recipe

    explain_recipe(_stages(), keys=keys, schema=schema, show=show)


@app.command()
def submit(
    recipe: RecipeArg,
    address: DashboardOpt = LOCAL_DASHBOARD,
    until: UntilOpt = None,
    from_: FromOpt = None,
    force: ForceOpt = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once instead of following the log.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Run a recipe as a Ray job on a cluster, and follow its log."""
    from pipelines.verbs.submit import submit_recipe

    flags = {"--until": until, "--from": from_, "--force": force}
    code = submit_recipe(_load(recipe, set_, store, seed), address=address, flags=flags, detach=detach, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def jobs(address: DashboardOpt = LOCAL_DASHBOARD, as_json: JsonOpt = False) -> None:
    """List the Rayse jobs of a cluster."""
    from pipelines.verbs.submit import show_jobs

    show_jobs(address, as_json=as_json)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(help="Id of the job, as `rayse jobs` lists it.")],
    address: DashboardOpt = LOCAL_DASHBOARD,
) -> None:
    """Stop a job. Finished stages are kept, and the recipe resumes when submitted again."""
    from pipelines.verbs.submit import stop_job

    stop_job(address, job)


def _load(recipe: str, overrides: list[str] | None, store: str | None, seed: int | None) -> Recipe:
    return _read(recipe, overrides, store, seed).fill()


def _read(recipe: str, overrides: list[str] | None, store: str | None, seed: int | None) -> RecipeTemplate:
    from pipelines.recipe.reader import read

    return read(recipe, _stages(), overrides=overrides or (), store=store, seed=seed)


def _stages() -> dict[str, Stage]:
    """The stages of pipelines, and the trial of serve, which pipelines must not import."""
    from pipelines.stages import STAGES
    from serve.trial import stage

    return {**STAGES, stage.STAGE.kind: stage.STAGE}


def _store(path: str | None) -> Store:
    """An existing store, ./store by default. Raises UserError if there is none."""
    from pipelines.errors import UserError
    from pipelines.store.artifacts import Store

    store = Store(path or "./store")
    if not store.exists():
        problem = "does not exist; pass one with --store, or make it with `rayse run RECIPE`"
        raise UserError(f"store {store.location}: {problem}")
    return store


def main() -> None:
    """The console script `rayse`."""
    app()
