"""Options of a server from a recipe's `cluster.serve` and from flags, which win; no fingerprint rests on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined
from typer.main import get_command

from pipelines import cli
from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import plan
from pipelines.stages import STAGES
from pipelines.store import aliases
from pipelines.store.artifacts import Store
from serve.options import GuardHosting, ServeCluster
from serve.settings import FEEDBACK_FILE
from serve.trial.stage import STAGE
from serve.verbs.commands import load_settings
from serve.verbs.promote import promote, show_decisions
from serve.verbs.service import combined, load_options, parse_adapters
from tests.serve.hosting.running import put_model

HEAD = "sources: {s: {kind: chinese}}\nstages: {corpus: {}, tokenizer: {}}\ncluster:\n  serve:\n"
FULL = (
    HEAD
    + """\
    models: [production, sft]
    replicas: 1:4
    gpus: 2
    adapters: {support: sft_support}
    key_file: keys.txt
    access_log: /var/log/rayse.jsonl
    guard_endpoint:
      {url: "http://guard:8001/v1", model: Qwen3Guard-Gen-0.6B, failure: pass, timeout_s: 2, categories: {PII: off},
       controversial: decline, replies: true}
    knowledge: none
    feedback: none
    limits: {request_s: 30}
    canary_rules: {requests: 50}
"""
)


def read(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return reader.load(folder / "recipe.yaml", {**STAGES, STAGE.kind: STAGE})


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, FULL).serve
    options = combined({}, recipe, tmp_path)
    assert (options.models, options.gpus, options.port) == (("production", "sft"), 2, 8000)
    assert (options.replicas.min, options.replicas.max) == (1, 4)
    assert (options.key_file, options.access_log) == (tmp_path / "keys.txt", Path("/var/log/rayse.jsonl"))
    flags = {"names": ["dpo"], "replicas": "2", "port": 9000, "key_file": Path("other.txt"), "adapter": ["a=b"],
             "knowledge": "manuals", "max_passages": 1, "feedback": "postgresql://u@h/d"}  # fmt: skip
    over = combined(flags, recipe, tmp_path)
    assert (over.models, over.replicas.max, over.port, over.gpus) == (("dpo",), 2, 9000, 2)
    assert (over.key_file, over.adapters) == (Path("other.txt"), {"a": "b"})
    assert (over.knowledge, over.max_passages, over.feedback) == ("manuals", 1, "postgresql://u@h/d")
    assert over.limits.request_s == 30 and over.canary_rules.requests == 50
    named = combined({"names": ["sft"]}, recipe, tmp_path)
    assert (named.models, named.adapters, named.canary) == (
        ("sft",),
        {},
        None,
    )  # those were of the recipe's first model
    assert combined({}, None, tmp_path) == ServeCluster()


def test_what_a_recipe_says_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.txt").write_text("the-key\n")
    monkeypatch.setenv("RAYSE_GUARD_KEY", "of-the-guard")
    store = Store(tmp_path / "store").create()
    (tmp_path / "model").mkdir()
    put_model(store, "aaaa", tmp_path / "model")
    options = combined({"persona": "Be brief."}, read(tmp_path, FULL).serve, tmp_path)
    settings = load_settings(store, None, **load_options(options, {"persona": "Be brief."}))
    assert (settings.replicas.max, settings.gpus, settings.key, settings.persona) == (4, 2, "the-key", "Be brief.")
    assert (settings.limits.request_s, settings.canary_rules.requests) == (30, 50)
    assert (settings.feedback, settings.feedback_url) == (None, None)
    guard = settings.guard_endpoint
    assert guard and (guard.failure, guard.timeout_s, guard.key) == ("pass", 2, "of-the-guard")
    assert (guard.categories, guard.controversial, guard.replies) == ({"PII": False}, "decline", True)
    flags = {"guard_failure": "decline", "feedback": "postgresql://u@h/d"}
    settings = load_settings(store, None, **load_options(combined(flags, options, tmp_path), flags))
    assert settings.guard_endpoint and settings.guard_endpoint.failure == "decline"
    assert (settings.feedback, settings.feedback_url) == (store.root / FEEDBACK_FILE, "postgresql://u@h/d")
    of_recipe = combined(
        {}, read(tmp_path, FULL.replace("feedback: none", "feedback: ./here/f.sqlite")).serve, tmp_path
    )
    local = load_settings(store, None, **load_options(of_recipe, {}))
    assert (local.feedback, local.feedback_url) == (tmp_path / "here" / "f.sqlite", None)
    assert local.receipt_key == store.root / "receipts.key"  # of all servers of the store
    without = combined({"guard": False}, options, tmp_path)
    assert load_settings(store, None, **load_options(without, {"guard": False})).guard_endpoint is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    replica: 2\n", "5: cluster.serve.replica: unknown key. Did you mean cluster.serve.replicas?"),
        ("    replicas: 4:1\n", "5: cluster.serve.replicas: expected a number of replicas such as 2, or MIN:MAX"),
        ("    port: 70000\n", "5: cluster.serve.port: "),
        ("    limits: {drain: 3}\n", "5: cluster.serve.limits.drain: unknown key. Did you mean"),
        (
            "    guard_endpoint: {url: 'http://g', model: m, key: secret}\n",
            "5: cluster.serve.guard_endpoint.key: unknown",
        ),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"recipe.yaml:{message}")) as caught:
        read(tmp_path, HEAD + line)
    assert "secret" not in str(caught.value)


def test_the_trial_of_a_recipe_is_hosted_by_the_options_under_its_name(tmp_path: Path) -> None:
    text = "stages: {host: {stage: serve}}\nbase: {model: x}\ncluster: {host: {port: 9001}}\n"
    assert read(tmp_path, text).serve.port == 9001
    assert read(tmp_path, text.replace("cluster: {host: {port: 9001}}", "")).serve == ServeCluster()
    with pytest.raises(UserError, match="serve: no such stage"):  # its options would be those of no server
        read(tmp_path, text.replace("{host: {port", "{serve: {port"))
    with pytest.raises(UserError, match="serve: no such stage"):
        reader.load(tmp_path / "recipe.yaml", STAGES, overrides=["cluster.serve.port=1", "stages={corpus: {}}",
                                                                "sources={s: {kind: chinese}}"])  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"replicas": "4:1"}, "--replicas 4:1: expected a number of replicas"),
        ({"adapter": ["a=b", "a=c"]}, "--adapter a=c: a second adapter of the name a"),
        ({"adapter": ["=b"]}, "--adapter =b: expected NAME=ARTIFACT"),
        ({"adapter": ["a="]}, "--adapter a=: expected NAME=ARTIFACT"),
        ({"knowledge": "k", "no_knowledge": True}, "--knowledge k: not together with --no-knowledge"),
    ],
)
def test_an_error_names_the_flag(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        combined(flags, None, tmp_path)


OF_RECIPE: dict[str, Any] = {"guard_endpoint": {"url": "http://guard:8001/v1", "model": "Qwen3Guard"}}
OF_FLAGS = {"guard_endpoint": "http://guard:8001/v1", "guard_model": "Qwen3Guard"}


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (OF_RECIPE | {"guard": False}, {},
         "cluster.serve.guard_endpoint: not together with cluster.serve.guard: false"),
        ({"guard": False}, OF_FLAGS, "--guard-endpoint: not together with cluster.serve.guard: false"),
        ({}, OF_FLAGS | {"guard": False}, "--guard-endpoint: not together with --no-guard"),
        ({"guard_endpoint": OF_RECIPE["guard_endpoint"] | {"model": "gpt-4"}}, {},
         "cluster.serve.guard_endpoint.model gpt-4: is of no family"),
        (OF_RECIPE | {"guard_model": "llama-guard"}, {},
         "cluster.serve.guard_endpoint: not together with cluster.serve.guard_model"),
        ({"guard_model": "llama-guard", "guard": False}, {},
         "cluster.serve.guard_model: not together with cluster.serve.guard: false"),
        ({}, {"guard_model": "llama-guard", "guard": False}, "--guard-model: not together with --no-guard"),
        ({}, {"guard_model": "llama-guard", "guard_failure": "open"}, "--guard-failure: got open; expected decline"),
        (OF_RECIPE, {"guard_model": "gpt-4"}, "--guard-model gpt-4: is of no family"),
        ({}, {"guard_model": ""}, "--guard-model: an empty text; expected an address or a model, or no such flag"),
        ({}, {"guard_endpoint": " "}, "--guard-endpoint: an empty text"),
        (OF_RECIPE, {"guard_model": ""}, "--guard-model: an empty text"),
        ({"guard_model": "llama-guard"}, {"guard_model": "", "guard": False}, "--guard-model: an empty text"),
        ({"guard_endpoint": OF_RECIPE["guard_endpoint"] | {"categories": {"S1": False}}}, {},
         "cluster.serve.guard_endpoint.categories: S1: no category of this model; expected Violent, "),
    ],
)  # fmt: skip
def test_a_guard_model_that_does_not_fit_is_named_as_it_was_written(
    tmp_path: Path, recipe: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    options = combined(flags, ServeCluster.model_validate(recipe), tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        load_options(options, flags)


def test_a_guard_model_without_an_address_is_hosted_by_the_server(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    (tmp_path / "model").mkdir()
    put_model(store, "aaaa", tmp_path / "model")
    for name in ("Llama-Guard-3-1B", "shieldgemma-2b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    recipe = read(
        tmp_path, HEAD + "    guard_model: {model: Llama-Guard-3-1B, replies: true, categories: {S8: off}}\n"
    ).serve
    named = read(tmp_path, HEAD + "    guard_model: Llama-Guard-3-1B\n").serve
    assert named.guard_model == GuardHosting(model="Llama-Guard-3-1B")
    flags: dict[str, Any]
    for of_recipe, flags, expected in (
        (recipe, {}, ("Llama-Guard-3-1B", "decline", True, {"S8": False})),
        (recipe, {"guard_model": str(tmp_path / "shieldgemma-2b"), "guard_failure": "pass", "guard_replies": False},
         ("shieldgemma-2b", "pass", False, {"S8": False})),
        (None, {"guard_model": str(tmp_path / "shieldgemma-2b"), "guard_replies": True},
         ("shieldgemma-2b", "decline", True, {})),
    ):  # fmt: skip
        options = combined(flags, of_recipe, tmp_path)
        settings = load_settings(store, None, **load_options(options, flags))
        guard = settings.guard_model
        assert guard and guard.folder == tmp_path / guard.model and settings.guard_endpoint is None
        assert (guard.model, guard.failure, guard.replies, guard.categories) == expected
    at_an_address = combined(OF_FLAGS | {"guard_replies": True}, recipe, tmp_path)
    loaded = load_options(at_an_address, OF_FLAGS | {"guard_replies": True})
    assert "guard_model" not in loaded and loaded["guard_endpoint"].replies
    unguarded = combined({"guard": False}, recipe, tmp_path)
    assert load_settings(store, None, **load_options(unguarded, {"guard": False})).guard_model is None


def test_a_guards_failure_without_a_guard_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--guard-failure: of no guard model"):
        load_options(ServeCluster(), {"guard_failure": "pass"})
    with pytest.raises(UserError, match="--guard-replies: of no guard model"):
        load_options(ServeCluster(), {"guard_replies": True})
    assert parse_adapters([]) == {}


def test_every_option_of_a_recipe_that_has_a_flag_says_the_same_default() -> None:
    serve = get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    flags = {option.name: option for option in serve.params}
    shared = flags.keys() & ServeCluster.model_fields.keys()
    assert {"port", "host", "replicas", "gpus", "guard", "feedback", "canary", "key_file", "max_passages"} <= shared
    for name in shared:
        assert flags[name].default is None  # else a flag that nobody set would win over the recipe
        default, written = ServeCluster.model_fields[name].default, re.search(r"Default: (\S+)\.$", flags[name].help)
        if written and default is not PydanticUndefined and not isinstance(default, bool | None):
            assert written[1] == (str(default) if name != "replicas" else str(default.max)), name


def test_no_fingerprint_rests_on_how_a_model_is_served(tmp_path: Path) -> None:
    recipes = [read(tmp_path, HEAD.partition("cluster")[0]), read(tmp_path, FULL)]
    store = Store(tmp_path / "store").create()
    first, second = ([step.fingerprint for step in plan(recipe, store)] for recipe in recipes)
    assert first == second


def test_decisions_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store").create()
    (tmp_path / "model").mkdir()
    model = put_model(store, "aaaa", tmp_path / "model")
    show_decisions(store, None, None, as_json=False)
    assert "no decisions in store" in capsys.readouterr().out
    aliases.promote(store, "production", model, reason="fewer errors", evidence={})
    show_decisions(store, None, None, as_json=False)
    assert re.fullmatch(rf"\S+T\S+  promote production {model.fingerprint}: fewer errors\n", capsys.readouterr().out)
    show_decisions(store, None, "staging", as_json=False)
    assert "no decisions on staging in store" in capsys.readouterr().out
    show_decisions(store, None, "production", as_json=True)
    assert '"decisions": [' in capsys.readouterr().out
    with pytest.raises(UserError, match="x: not together with --list"):
        show_decisions(store, "x", None, as_json=False)
    with pytest.raises(UserError, match="NAME: missing; expected a model or trial to promote, or --list"):
        promote(store, None, "production", reason="", as_json=False)
