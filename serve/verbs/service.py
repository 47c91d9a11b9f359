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
from serve.options import NONE, GuardAddress, Hosting, ServeCluster
from serve.settings import GuardEndpoint, is_path
from serve.verbs.server_keys import read_guard_endpoint, read_server_keys

FILES = ("key_file", "access_log")  # options whose paths in a recipe start at its folder
RECIPE = "cluster.serve"  # the recipe's options of a server
GUARD_FLAGS = ("guard_endpoint", "guard_model", "guard_failure")


def combined(flags: Mapping[str, Any], recipe: ServeCluster | None, folder: Path) -> ServeCluster:
    """The options of a server. flags: of the command line, those that were set, by the names of its parameters; recipe:
    its `cluster.serve`; folder: where the recipe is. Raises UserError that names the flag."""
    values = recipe.model_dump(exclude_unset=True) if recipe is not None else {}
    values |= {name: folder / values[name] for name in FILES if values.get(name) is not None}
    if is_path(values.get("feedback")):
        values["feedback"] = str(folder / Path(values["feedback"]).expanduser())
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
        values.pop("guard_endpoint", None)
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
        "guard_endpoint": _guard_endpoint(options.guard_endpoint, flags, guard=options.guard),
        "feedback_url": options.feedback,
        "knowledge": None if options.knowledge == NONE else options.knowledge,
        "no_knowledge": options.knowledge == NONE,
        **{name: flags.get(name) for name in ("persona", "max_turns", "max_tokens")},
        **read_server_keys(options.key_file),
    }


def _guard_endpoint(recipe: GuardAddress | None, flags: Mapping[str, Any], *, guard: bool) -> GuardEndpoint | None:
    """The guard model of the recipe, with what flags say of it in place of that."""
    url, model = (recipe.url, recipe.model) if recipe is not None else (None, None)
    url, model = flags.get("guard_endpoint", url), flags.get("guard_model", model)
    if url is None and model is None and "guard_failure" in flags:
        raise UserError("--guard-failure: of no guard model; expected --guard-endpoint and --guard-model too")
    if not guard and (url or model):
        written = "--guard-endpoint" if {"guard_endpoint", "guard_model"} & flags.keys() else f"{RECIPE}.guard_endpoint"
        switch = "--no-guard" if flags.get("guard") is False else f"{RECIPE}.guard: false"
        raise UserError(f"{written}: not together with {switch}, which checks nothing; leave one out")
    from serve.gateway.guard_families import family_of

    failure = recipe.failure if recipe is not None else GuardAddress.model_fields["failure"].default
    model_option = "--guard-model" if "guard_model" in flags else f"{RECIPE}.guard_endpoint.model"
    endpoint = read_guard_endpoint(url, model, flags.get("guard_failure", failure), model_option=model_option)
    if endpoint is None or recipe is None:
        return endpoint
    family_of(endpoint.model).let_pass(recipe.categories, f"{RECIPE}.guard_endpoint.categories")
    return endpoint.model_copy(update={"timeout_s": recipe.timeout_s, "categories": recipe.categories})
