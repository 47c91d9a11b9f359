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
from pipelines.verbs import arguments
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
    recipe: arguments.RecipeArg,
    until: arguments.UntilOpt = None,
    from_: arguments.FromOpt = None,
    force: arguments.ForceOpt = None,
    set_: arguments.SetOpt = None,
    store: arguments.StoreOpt = None,
    seed: arguments.SeedOpt = None,
    address: arguments.AddressOpt = None,
    no_wait: arguments.NoWaitOpt = False,
    quiet: arguments.QuietOpt = False,
    as_json: arguments.JsonOpt = False,
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
    recipe: arguments.RecipeArg,
    until: arguments.UntilOpt = None,
    set_: arguments.SetOpt = None,
    store: arguments.StoreOpt = None,
    seed: arguments.SeedOpt = None,
    nodes: arguments.PlanNodesOpt = None,
    as_json: arguments.JsonOpt = False,
) -> None:
    """Show which stages would run, and the memory of a rank, disk and time of each that trains, evaluates or quantises.

    Runs no stage, and needs a base's config.json alone. Exits with 2 where a stage cannot fit, naming what would.
    """
    from pipelines.verbs.plan import show_plan

    show_plan(_load(recipe, set_, store, seed), until=until, nodes=nodes, as_json=as_json)


@app.command()
def sweep(
    recipe: arguments.RecipeArg,
    trials: arguments.TrialsOpt = None,
    until: Annotated[str | None, typer.Option(help="Last stage of a trial, its evaluation included.")] = None,
    out: arguments.BestOpt = None,
    set_: arguments.SetOpt = None,
    store: arguments.StoreOpt = None,
    seed: arguments.SeedOpt = None,
    address: arguments.AddressOpt = None,
    quiet: arguments.QuietOpt = False,
    as_json: arguments.JsonOpt = False,
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
    store: arguments.ReadStoreOpt = None,
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe: report on its latest run.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the page. Default: report.html in the store.")] = None,
    as_json: arguments.JsonOpt = False,
) -> None:
    """Report on the latest run. Prints a table, and writes report.html with plots and samples."""
    from pipelines.verbs.report import show_report

    show_report(_store(store), recipe=recipe, out=out, as_json=as_json)


@app.command()
def lineage(name: arguments.NameArg, store: arguments.ReadStoreOpt = None, as_json: arguments.JsonOpt = False) -> None:
    """Show the provenance of an artifact. Its parents down to the sources, with code, packages and machine."""
    from pipelines.verbs.inspect import show_lineage

    show_lineage(_store(store), name, as_json=as_json)


@app.command()
def inspect(
    name: arguments.NameArg,
    where: arguments.WhereOpt = None,
    limit: arguments.LimitOpt = 20,
    card: arguments.CardOpt = False,
    query: arguments.QueryOpt = None,
    store: arguments.ReadStoreOpt = None,
    as_json: arguments.JsonOpt = False,
) -> None:
    """Show rows of a corpus, of conversations, preferences or documents. Those used, and those set aside, with why."""
    from pipelines.verbs import inspect_knowledge, inspect_rows

    if query is not None:
        return inspect_knowledge.show_hits(_store(store), name, query, limit=limit, as_json=as_json)
    return inspect_rows.show_rows(_store(store), name, where=where or (), limit=limit, card=card, as_json=as_json)


@app.command()
def ls(store: arguments.ReadStoreOpt = None, as_json: arguments.JsonOpt = False) -> None:
    """List the artifacts and drafts of the store. Shows the process that works on a draft."""
    from pipelines.verbs.inspect import show_store

    show_store(_store(store), as_json=as_json)


@app.command()
def export(
    name: arguments.NameArg,
    folder: Annotated[Path, typer.Argument(help="The target: a new or empty folder.")],
    store: arguments.ReadStoreOpt = None,
    as_json: arguments.JsonOpt = False,
) -> None:
    """Copy an artifact's files to a folder. A model becomes a plain Hugging Face folder that any tool opens."""
    from pipelines.verbs.export import export_artifact

    export_artifact(_store(store), name, folder, as_json=as_json)


@app.command()
def serve(
    names: arguments.ModelsArg = None, recipe: arguments.ServeRecipeOpt = None, port: arguments.PortOpt = None,
    host: arguments.HostOpt = None, store: arguments.ReadStoreOpt = None, key_file: arguments.KeyFileOpt = None,
    persona: arguments.PersonaOpt = None, max_turns: arguments.MaxTurnsOpt = None,
    max_tokens: arguments.MaxTokensOpt = None, gpus: arguments.GpusOpt = None, guard: arguments.GuardOpt = None,
    guard_endpoint: arguments.GuardEndpointOpt = None, guard_model: arguments.GuardModelOpt = None,
    guard_failure: arguments.GuardFailureOpt = None, guard_replies: arguments.GuardRepliesOpt = None,
    knowledge: arguments.KnowledgeOpt = None, no_knowledge: arguments.NoKnowledgeOpt = False,
    max_passages: arguments.MaxPassagesOpt = None, access_log: arguments.AccessLogOpt = None,
    quality_sample: arguments.QualitySampleOpt = None, quality: arguments.QualityOpt = None,
    feedback: feedback_commands.FeedbackOpt = None, mask_feedback: arguments.MaskFeedbackOpt = None,
    replicas: arguments.ReplicasOpt = None, routers: arguments.RoutersOpt = None,
    address: arguments.AddressOpt = None, app: arguments.AppOpt = None,
    route: arguments.RouteOpt = None, adapter: arguments.AdapterOpt = None, canary: arguments.CanaryOpt = None,
    resume_canary: arguments.ResumeCanaryOpt = False, emit: arguments.EmitOpt = None,
    as_json: arguments.JsonOpt = False,
) -> None:  # fmt: skip
    """Serve models: OpenAI-compatible API and chat page. A server of an alias follows it, see `rayse promote`.

    Options may stand in a recipe's `cluster.serve` (--recipe): `rayse recipe --keys serve` explains all of them.
    """
    flags = {name: value for name, value in locals().items() if value is not None}
    from serve.verbs import commands

    if recipe is None:
        return commands.serve(_store(store), flags)
    loaded = _load(recipe, None, store, None)
    return commands.serve(_store(loaded.store), flags, recipe=loaded.serve, folder=loaded.path.parent)


@app.command()
def promote(
    name: arguments.PromotedArg = None, alias: arguments.DecisionsOfOpt = None, reason: arguments.ReasonOpt = "",
    list_: arguments.ListOpt = False, feedback: feedback_commands.FeedbackOpt = None,
    store: arguments.ReadStoreOpt = None, no_watch: arguments.NoWatchOpt = False, as_json: arguments.JsonOpt = False,
) -> None:  # fmt: skip
    """Move an alias to a model. Servers of the alias follow without a failed request; the decision is recorded."""
    from serve.verbs import promote as verb

    if list_:
        return verb.show_decisions(_store(store), name, alias, as_json=as_json)
    verb.promote(
        _store(store), name, alias or arguments.PRODUCTION, reason=reason, as_json=as_json, feedback_url=feedback,
        watch=not no_watch,
    )  # fmt: skip


@app.command()
def rollback(
    alias: arguments.AliasOpt = arguments.PRODUCTION, reason: arguments.ReasonOpt = "",
    feedback: feedback_commands.FeedbackOpt = None, store: arguments.ReadStoreOpt = None,
    as_json: arguments.JsonOpt = False,
) -> None:  # fmt: skip
    """Move an alias back to what it named before. Servers of the alias follow; the decision is recorded."""
    from serve.verbs import promote as verb

    verb.rollback(_store(store), alias, reason=reason, as_json=as_json, feedback_url=feedback)


@app.command()
def chat(
    name: arguments.ModelArg = None,
    url: Annotated[str | None, typer.Option(help="Address of a running server, http://HOST:PORT.")] = None,
    store: arguments.ReadStoreOpt = None,
    key_file: arguments.ClientKeyOpt = None,
    plain_http: arguments.PlainHttpOpt = False,
    persona: arguments.PersonaOpt = None,
    temperature: arguments.TemperatureOpt = 0.7,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = None,
) -> None:
    """Chat with a model in the terminal. /reset starts anew, /quit or Ctrl-D leaves, Ctrl-C stops a reply.

    Talks to the server at --url, or on port 8000 of this machine, or starts a server for this chat.
    """
    from serve.verbs import commands, server_keys

    options = {"persona": persona, "temperature": temperature, **({"max_tokens": max_tokens} if max_tokens else {})}
    is_running = url is not None or (name is None and commands.is_ready())
    settings = None if is_running else lambda: commands.load_settings(_store(store), name, port=0, feedback_url="none")
    key = server_keys.read_client_key(key_file, url, plain_http=plain_http)
    commands.chat(settings, url, key, **options)


@app.command()
def top(
    url: arguments.ServerUrlOpt = None,
    key_file: arguments.ClientKeyOpt = None,
    plain_http: arguments.PlainHttpOpt = False,
    interval: arguments.IntervalOpt = 2.0,
    once: arguments.OnceOpt = False,
    as_json: arguments.TopJsonOpt = False,
) -> None:
    """Watch a server: requests, times to the first text, tokens, guard, feedback, memory. Ctrl-C ends it."""
    from serve.verbs import commands, server_keys

    key = server_keys.read_client_key(key_file, url, plain_http=plain_http)
    commands.watch(url, key, interval_s=interval, once=once, as_json=as_json)


@app.command()
def init(
    data: Annotated[list[str], typer.Argument(help="Your files or folders: text, JSON lines, tables, and others.")],
    base: arguments.BaseOpt = None,
    nodes: arguments.InitNodesOpt = None,
    out: Annotated[Path, typer.Option(help="File for the recipe; it must not exist.")] = Path("recipe.yaml"),
    as_json: arguments.JsonOpt = False,
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
    keys: arguments.KeysOpt = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    show: Annotated[str | None, typer.Option(help="Name of a recipe that comes with Rayse: print it.")] = None,
) -> None:
    """Explain the keys of recipes. Without options, list the stages, kinds of sources and recipes."""
    from pipelines.verbs.explain import explain_recipe

    explain_recipe(_stages(), keys=keys, schema=schema, show=show)


@app.command()
def submit(
    recipe: arguments.RecipeArg,
    address: arguments.DashboardOpt = arguments.LOCAL_DASHBOARD,
    until: arguments.UntilOpt = None,
    from_: arguments.FromOpt = None,
    force: arguments.ForceOpt = None,
    set_: arguments.SetOpt = None,
    store: arguments.StoreOpt = None,
    seed: arguments.SeedOpt = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once instead of following the log.")] = False,
    as_json: arguments.JsonOpt = False,
) -> None:
    """Run a recipe as a Ray job on a cluster, and follow its log."""
    from pipelines.verbs.submit import submit_recipe

    flags = {"--until": until, "--from": from_, "--force": force}
    code = submit_recipe(_load(recipe, set_, store, seed), address=address, flags=flags, detach=detach, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def jobs(address: arguments.DashboardOpt = arguments.LOCAL_DASHBOARD, as_json: arguments.JsonOpt = False) -> None:
    """List the Rayse jobs of a cluster."""
    from pipelines.verbs.submit import show_jobs

    show_jobs(address, as_json=as_json)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(help="Id of the job, as `rayse jobs` lists it.")],
    address: arguments.DashboardOpt = arguments.LOCAL_DASHBOARD,
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
