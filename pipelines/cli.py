"""The command line: parses arguments, calls a verb, turns errors into messages and exit codes. Nothing else.

Imports happen inside the verbs, so that `rayse --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.termination import INTERRUPTED, sigterm_interrupts

USER_ERROR, CLUSTER_ERROR = 2, 3  # and INTERRUPTED, 130


class _Verbs(TyperGroup):
    """All verbs, with our exit codes around whichever one is called."""

    def invoke(self, ctx: Any) -> Any:
        with sigterm_interrupts(), _exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    name="rayse",
    cls=_Verbs,
    help="Raises a language model on Ray: from raw text to an aligned, quantised, served chat model, from one recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with `rayse run demo`, or `rayse init YOUR_FILES…`. Exit codes: 0 done, 2 the input is wrong, "
    "3 the cluster or machine failed, 130 interrupted by Ctrl-C or SIGTERM.",
)

RecipeArg = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a recipe that comes with Rayse (demo, micro).")
]
StoreOpt = Annotated[str | None, typer.Option(help="Folder of artifacts, shared by all nodes. Default: the recipe's.")]
SeedOpt = Annotated[int | None, typer.Option(help="Seed instead of the recipe's.")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="Change a value: pretrain.budget_tokens=1000000.")]
UntilOpt = Annotated[str | None, typer.Option(help="The last stage to make, its evaluation included.")]
FromOpt = Annotated[str | None, typer.Option("--from", help="Make this stage and all after it again.")]
ForceOpt = Annotated[str | None, typer.Option(help="Make this stage and what stands on it again.")]
AddressOpt = Annotated[
    str | None, typer.Option(help="A Ray cluster to work on. Default: a local one, started and stopped.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NameArg = Annotated[str, typer.Argument(help="A stage of the latest run, or the first letters of a fingerprint.")]


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
        bool, typer.Option("--no-wait", help="Don't wait for a run that holds a draft: exit 3.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Make every stage that is not made yet, in order. Killed and run again, it goes on where it stood."""
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
    as_json: JsonOpt = False,
) -> None:
    """Show what would run and what is made already. Starts nothing."""
    from pipelines.verbs.plan import show_plan

    show_plan(_load(recipe, set_, store, seed), until=until, as_json=as_json)


@app.command()
def sweep(
    recipe: RecipeArg,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many; more than before goes on with those there are.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The last stage of a trial, its evaluation included.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the best recipe goes. Default: best.yaml beside it.")] = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    address: AddressOpt = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Try the values of the recipe's search spaces with Ray Tune; the best trial is an ordinary artifact.

    A search space stands in the place of the value it varies: `pretrain: {learning_rate: {log_uniform: [1e-3, 1e-1],
    default: 0.02}}`; also choose: [a, b, …], uniform: [from, to], range: [from, to, step]. `sweep: {metric:
    heldout/bits_per_byte, trials: 8}` says what decides. Trials share the stages before; the worse are ended early.
    Killed and run again, it goes on where it stood.
    """
    from pipelines.verbs.sweep import sweep_recipe

    asked = [f"sweep.{key}={value}" for key, value in (("trials", trials), ("until", until)) if value is not None]
    record, best = sweep_recipe(
        _read(recipe, [*(set_ or ()), *asked], store, seed), out=out, address=address, quiet=quiet
    )
    from pipelines.console import print_json
    from pipelines.report.sweep import facts, print_sweep

    if as_json:
        return print_json({**facts(record), "best_recipe": str(best)})
    return print_sweep(record, best)


@app.command()
def report(
    store: StoreOpt = None,
    recipe: Annotated[str | None, typer.Option(help="The newest run of this recipe, by its name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write report.html. Default: the store.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """The report card of the latest run: a table here, plots and samples in report.html."""
    from pipelines.verbs.report import show_report

    show_report(_store(store), recipe=recipe, out=out, as_json=as_json)


@app.command()
def lineage(name: NameArg, store: StoreOpt = None, as_json: JsonOpt = False) -> None:
    """Where an artifact came from: its parents down to the sources, with code, packages and machine."""
    from pipelines.verbs.inspect import show_lineage

    show_lineage(_store(store), name, as_json=as_json)


@app.command()
def ls(store: StoreOpt = None, as_json: JsonOpt = False) -> None:
    """What the store holds: artifacts, and drafts with who works on them."""
    from pipelines.verbs.inspect import show_store

    show_store(_store(store), as_json=as_json)


@app.command()
def export(
    name: NameArg,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    store: StoreOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Copy an artifact's files: a model becomes a plain Hugging Face folder that any tool opens."""
    from pipelines.verbs.export import export_artifact

    export_artifact(_store(store), name, folder, as_json=as_json)


KeyOpt = Annotated[str | None, typer.Option(help="What clients must send as `Authorization: Bearer KEY`.")]
KeyFileOpt = Annotated[Path | None, typer.Option(help="A file whose first line is the key.")]
PersonaOpt = Annotated[str | None, typer.Option(help="The system message of conversations that bring none.")]
ModelArg = Annotated[
    str | None,
    typer.Argument(help="A model or a trial: its stage, or a fingerprint's first letters. Default: the newest."),
]


@app.command()
def serve(
    name: ModelArg = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 finds a free port.")] = 8000,
    host: Annotated[str, typer.Option(help="Other than loopback needs a key.")] = "127.0.0.1",
    store: StoreOpt = None,
    key: KeyOpt = None,
    key_file: KeyFileOpt = None,
    persona: PersonaOpt = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Newest turns that the model is shown.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=16, help="Of a prompt with its reply.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs for the model; 0 serves on the CPU.")] = 0,
    guard: Annotated[bool, typer.Option(help="Check what is asked, and what is replied.")] = True,
    as_json: JsonOpt = False,
) -> None:
    """Host a model: OpenAI's API, a chat page, feedback, health and metrics. Ctrl-C stops it."""
    from serve.verbs.commands import load_settings, read_key
    from serve.verbs.commands import serve as serve_model

    settings = load_settings(_store(store), name, port=port, host=host, key=read_key(key, key_file), persona=persona,
                             max_turns=max_turns, max_tokens=max_tokens, gpus=gpus, guard=guard)  # fmt: skip
    serve_model(settings, as_json=as_json)


@app.command()
def chat(
    name: ModelArg = None,
    url: Annotated[str | None, typer.Option(help="A running server, http://HOST:PORT.")] = None,
    store: StoreOpt = None,
    key: KeyOpt = None,
    key_file: KeyFileOpt = None,
    persona: PersonaOpt = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 always says the most likely.")] = 0.7,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply.")] = None,
) -> None:
    """Talk to a model: to the server at --url or on port 8000, else to one started for this. /reset, /quit, Ctrl-C."""
    from serve.verbs import commands

    options = {"persona": persona, "temperature": temperature}
    options |= {"max_tokens": max_tokens} if max_tokens else {}
    running = url is not None or (name is None and commands.is_ready())
    settings = None if running else lambda: commands.load_settings(_store(store), name, port=0)
    commands.chat(settings, url, commands.read_key(key, key_file), **options)


@app.command()
def init(
    data: Annotated[list[Path], typer.Argument(help="Your files or folders: txt, md, jsonl(.gz), parquet, csv.")],
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    as_json: JsonOpt = False,
) -> None:
    """Look at your files, show the rows as they were understood, write a starter recipe."""
    from pipelines.verbs.init import write_recipe

    write_recipe(data, out, as_json=as_json)


@app.command()
def recipe(
    keys: Annotated[str | None, typer.Option(help="Explain the keys of a stage or of a kind of source.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    show: Annotated[str | None, typer.Option(help="Print a recipe that comes with Rayse.")] = None,
) -> None:
    """Teach the recipe's language: the keys of each stage and source, with defaults."""
    from pipelines.verbs.explain import explain_recipe

    explain_recipe(_stages(), keys=keys, schema=schema, show=show)


@app.command()
def submit(
    recipe: RecipeArg,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")] = "http://127.0.0.1:8265",
    until: UntilOpt = None,
    from_: FromOpt = None,
    force: ForceOpt = None,
    set_: SetOpt = None,
    store: StoreOpt = None,
    seed: SeedOpt = None,
    detach: Annotated[bool, typer.Option("--detach", help="Don't follow the log.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Run a recipe as a Ray job on a cluster, and follow its log."""
    from pipelines.verbs.submit import submit_recipe

    flags = {"--until": until, "--from": from_, "--force": force}
    code = submit_recipe(_load(recipe, set_, store, seed), address=address, flags=flags, detach=detach, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def jobs(
    address: Annotated[str, typer.Option(help="The cluster's dashboard.")] = "http://127.0.0.1:8265",
    as_json: JsonOpt = False,
) -> None:
    """List the cluster's Rayse jobs."""
    from pipelines.verbs.submit import show_jobs

    show_jobs(address, as_json=as_json)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(help="A job's id, as `rayse jobs` lists it.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard.")] = "http://127.0.0.1:8265",
) -> None:
    """Stop a job. What it made stays made; submitted again it goes on."""
    from pipelines.verbs.submit import stop_job

    stop_job(address, job)


def _load(recipe: str, overrides: list[str] | None, store: str | None, seed: int | None):
    return _read(recipe, overrides, store, seed).recipe()


def _read(recipe: str, overrides: list[str] | None, store: str | None, seed: int | None):
    from pipelines.recipe.reader import read

    return read(recipe, _stages(), overrides=overrides or (), store=store, seed=seed)


def _stages():
    """Every stage of a recipe: those of pipelines, which knows nothing of serve, and serve's trial."""
    from pipelines.stages import STAGES
    from serve.trial import stage

    return {**STAGES, stage.STAGE.kind: stage.STAGE}


def _store(path: str | None):
    from pipelines.errors import UserError
    from pipelines.store.artifacts import Store

    store = Store(path or "./store")
    if not (store.root / "artifacts").is_dir():
        raise UserError(f"store {store.root}: there is none; name one with --store, or make it with `rayse run RECIPE`")
    return store


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Errors people can act on become one message on stderr and the right code; anything else keeps its traceback."""
    from cluster.errors import ClusterError
    from pipelines.errors import UserError

    try:
        yield
    except UserError as error:
        _fail(error, USER_ERROR)
    except ClusterError as error:
        _fail(error, CLUSTER_ERROR)
    except OSError as error:
        from cluster.errors import disk_full

        if not disk_full(error):
            raise
        _fail(ClusterError(f"{error.filename or 'a disk'}: no space left on the device; free some"), CLUSTER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; what is made stays made: the same command goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """The console script `rayse`."""
    app()


if __name__ == "__main__":
    main()
