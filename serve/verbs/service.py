"""What `rayse serve` hosts: the flags of the command line over the recipe's `cluster.serve`.

    cluster.serve ──► flags override it ──► ServeCluster ──► options of load_settings (commands.py)

Files that a recipe names are relative to its folder; a key stands in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.errors import UserError
from serve.options import NONE, GuardAddress, GuardHosting, Hosting, ServeCluster
from serve.settings import GuardEndpoint, is_path
from serve.verbs.server_keys import read_guard_endpoint, read_server_keys

FILES = ("key_file", "access_log")  # options whose paths in a recipe start at its folder
RECIPE = "cluster.serve"  # the recipe's options of a server
GUARD_FLAGS = ("guard_endpoint", "guard_model", "guard_failure", "guard_replies")


def combined(flags: Mapping[str, Any], recipe: ServeCluster | None, folder: Path) -> ServeCluster:
    """The options of a server. flags: of the command line, those that were set, by the names of its parameters; recipe:
    its `cluster.serve`; folder: where the recipe is. Raises UserError that names the flag."""
    values = recipe.model_dump(exclude_unset=True) if recipe is not None else {}
    values |= {name: folder / values[name] for name in FILES if values.get(name) is not None}
    if is_path(values.get("feedback")):
        values["feedback"] = str(folder / Path(values["feedback"]).expanduser())
    if (guard := values.get("guard_model")) and (folder / guard["model"] / "config.json").is_file():
        guard["model"] = str(folder / guard["model"])
    values |= {name: flags[name] for name in ServeCluster.model_fields if name in flags and name not in GUARD_FLAGS}
    if flags.get("names"):
        values["models"] = tuple(flags["names"])
        for of_first_model in ("adapters", "canary"):
            if of_first_model not in flags:
                values.pop(of_first_model, None)
    if flags.get("adapter"):
        values["adapters"] = parse_adapters(flags["adapter"])
    if flags.get("no_knowledge"):
        if "knowledge" in flags:
            raise UserError(
                f"--knowledge {flags['knowledge']}: not together with --no-knowledge; leave one of them out"
            )
        values["knowledge"] = NONE
    if flags.get("guard") is False and not any(name in flags for name in GUARD_FLAGS):
        values = {name: value for name, value in values.items() if name not in GUARD_FLAGS}
    try:
        return ServeCluster.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{str(problem['loc'][0]).replace('_', '-')} {problem['input']}: {message}") from None


def parse_adapters(texts: Sequence[str]) -> dict[str, str]:
    """Reads `NAME=ARTIFACT`, or an artifact's name for both. Raises UserError.

    >>> parse_adapters(["zh=sft_zh", "formal"])
    {'zh': 'sft_zh', 'formal': 'formal'}
    """
    adapters: dict[str, str] = {}
    for text in texts:
        name, equals, artifact = text.partition("=")
        if not name or (equals and not artifact):
            raise UserError(f"--adapter {text}: expected NAME=ARTIFACT, such as support=sft, or an alias")
        if name in adapters:
            raise UserError(f"--adapter {text}: a second adapter of the name {name}; expected each name once")
        adapters[name] = artifact or name
    return adapters


def load_options(options: ServeCluster, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options of load_settings: of a server with these options, and with the flags that no recipe has."""
    return {
        **{name: getattr(options, name) for name in Hosting.model_fields},
        **_guard_models(options, flags),
        "feedback_url": options.feedback,
        "knowledge": None if options.knowledge == NONE else options.knowledge,
        "no_knowledge": options.knowledge == NONE,
        **{name: flags.get(name) for name in ("persona", "max_turns", "max_tokens")},
        **read_server_keys(options.key_file),
    }


def _guard_models(options: ServeCluster, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The guard model of the recipe, with what flags say of it in place of that: of `guard_endpoint`, or of
    `guard_model`, which the server hosts itself. Raises UserError."""
    url, model = flags.get("guard_endpoint"), flags.get("guard_model")
    endpoint, hosting = options.guard_endpoint, options.guard_model
    for flag, value in (("--guard-endpoint", url), ("--guard-model", model)):
        if value is not None and not value.strip():  # such as of a variable that is not set
            raise UserError(f"{flag}: an empty text; expected an address or a model, or no such flag where there shall "
                            f"be no guard model")  # fmt: skip
    if endpoint is not None and hosting is not None:
        raise UserError(f"{RECIPE}.guard_endpoint: not together with {RECIPE}.guard_model; leave one of them out")
    if not (url or model or endpoint or hosting):
        for name in {"guard_failure", "guard_replies"} & flags.keys():
            raise UserError(f"--{name.replace('_', '-')}: of no guard model; expected --guard-model too")
        return {}
    if not options.guard:
        written = "guard_endpoint" if endpoint else "guard_model"
        written = "--guard-endpoint" if url else "--guard-model" if model else f"{RECIPE}.{written}"
        switch = "--no-guard" if flags.get("guard") is False else f"{RECIPE}.guard: false"
        raise UserError(f"{written}: not together with {switch}, which checks nothing; leave one out")
    if url is None and endpoint is None:
        values = hosting.model_dump(exclude_unset=True) if hosting else {}
        values |= {"model": model} if model else {}
        values |= {name: flags[f"guard_{name}"] for name in ("failure", "replies") if f"guard_{name}" in flags}
        try:
            return {"guard_model": GuardHosting.model_validate(values)}
        except ValidationError:
            raise UserError(f"--guard-failure: got {flags['guard_failure']}; expected decline or pass") from None
    return {"guard_endpoint": _guard_endpoint(endpoint, flags)}


def _guard_endpoint(recipe: GuardAddress | None, flags: Mapping[str, Any]) -> GuardEndpoint | None:
    """The guard model at an endpoint. recipe: its `guard_endpoint`."""
    from serve.guard_families import family_of

    url, model = (recipe.url, recipe.model) if recipe is not None else (None, None)
    url, model = flags.get("guard_endpoint", url), flags.get("guard_model", model)
    failure = recipe.failure if recipe is not None else GuardAddress.model_fields["failure"].default
    model_option = "--guard-model" if "guard_model" in flags else f"{RECIPE}.guard_endpoint.model"
    endpoint = read_guard_endpoint(url, model, flags.get("guard_failure", failure), model_option=model_option)
    if endpoint is None:
        return None
    recipe = recipe or endpoint
    family_of(endpoint.model).let_pass(recipe.categories, f"{RECIPE}.guard_endpoint.categories")
    rest = {name: getattr(recipe, name) for name in ("timeout_s", "categories", "controversial", "replies")}
    return endpoint.model_copy(update=rest | ({"replies": flags["guard_replies"]} if "guard_replies" in flags else {}))
