"""A recipe is read strictly; errors name file, line and key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import cli
from pipelines.errors import UserError
from pipelines.recipe import reader, schema, shipped
from pipelines.recipe.reader import Recipe
from pipelines.stages import STAGES
from tests.toy_stages import TABLE, ToyCluster

GOOD = """\
name: small
seed: 3
store: ./somewhere
sources:
  books: {kind: jsonl, path: books.jsonl, language: en}
  talks: {kind: jsonl, path: talks.jsonl, rows: conversations}
stages:
  corpus: {word: 中文}
  tokenizer:
  tokens: {rate: 3e-3}
  pretrain: {times: 1_0}
  again: {stage: pretrain, from: pretrain, word: b}
evaluate: {times: 2}
cluster:
  pretrain: {workers: 2}
  evaluate: {workers: 3}
"""


def load(folder: Path, text: str, **arguments: Any) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return reader.load(file, TABLE, **arguments)


def error(folder: Path, text: str, **arguments: Any) -> str:
    """The message for an invalid recipe, without the folder."""
    with pytest.raises(UserError) as caught:
        load(folder, text, **arguments)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_recipe_is_read_into_entries_with_their_inputs(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.name, recipe.seed, recipe.store) == ("small", 3, "./somewhere")
    assert [e.name for e in recipe.entries] == ["corpus", "tokenizer", "tokens", "pretrain", "again"]
    assert recipe.entry("corpus").options.model_dump()["word"] == "中文"
    assert recipe.entry("tokens").options.model_dump()["rate"] == 0.003
    assert recipe.entry("pretrain").options.model_dump()["times"] == 10
    assert recipe.entry("tokens").inputs == {"corpus": "corpus", "tokenizer": "tokenizer"}
    assert recipe.entry("pretrain").inputs == {"tokens": "tokens"}
    assert recipe.entry("again").inputs == {"tokens": "tokens", "model": "pretrain"}
    assert list(recipe.entry("corpus").sources) == ["books"]
    assert recipe.entry("corpus").sources["books"].model_dump()["path"] == "books.jsonl"
    assert recipe.entry("pretrain").cluster == ToyCluster(workers=2)
    assert recipe.evaluate is not None and recipe.evaluate.options.model_dump()["times"] == 2
    assert recipe.evaluate.cluster == ToyCluster(workers=3)


def test_omitted_keys_have_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, "sources: {s: {kind: chinese}}\nstages: {corpus: {}}\n")
    assert (recipe.name, recipe.seed, recipe.store) == ("recipe", 0, "./store")


S = "sources: {s: {kind: chinese}}\n"
T = S + "stages:\n"
C = S + "stages: {corpus: {}}\n"
D = T + "  corpus: {}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # keys
        (C + "stagse: {}\n", "3: stagse: unknown key. Did you mean stages? (Keys: name,"),
        (T + "  corpus:\n    wrod: a\n",
         "4: corpus.wrod: unknown key. Did you mean corpus.word? (Keys of corpus: word, times,"),
        (T + "  corpus:\n    schedule:\n      warmpu: 0.2\n",
         "5: corpus.schedule.warmpu: unknown key. Did you mean corpus.schedule.warmup? "
         "(Keys of corpus.schedule: kind, warmup)"),
        (S + "stages: {corpus: {qqqqqqqq: 1}}\n", "2: corpus.qqqqqqqq: unknown key. (Keys of corpus: word,"),
        (D + "  corpus: {}\n", "4: stages.corpus: doubled key, first on line 3; keep one"),
        (T + "  corpus:\n    word: a\n    word: b\n", "5: stages.corpus.word: doubled key, first on line 4"),
        # values
        (T + "  corpus:\n    times: 0\n",
         "4: corpus.times: input should be greater than or equal to 1; got 0"),
        (T + "  corpus:\n    rate: 1.0\n", "4: corpus.rate: input should be less than 1; got 1.0"),
        (S + "stages: {corpus: {rate: fast}}\n", "2: corpus.rate: input should be a valid number"),
        (S + "stages: {corpus: {rate: .nan}}\n", "2: corpus.rate: input should be"),
        (S + "stages: {corpus: {rate: 1e999}}\n", "2: corpus.rate: input should be"),
        (S + "stages: {corpus: {times: 1.5}}\n", "2: corpus.times: input should be a valid integer"),
        (S + "stages: {corpus: {schedule: {kind: wds}}}\n",
         "2: corpus.schedule.kind: input should be 'wsd' or 'cosine'; got 'wds'"),
        (S + "stages: {corpus: {weights: {en: much}}}\n", "2: corpus.weights.en: input should be a valid number"),
        (S + "stages: {corpus: 5}\n", "2: stages.corpus: expected keys and values, got 5"),
        (S + "stages: [corpus, tokenizer]\n", "2: stages: expected keys and values, got a list"),
        (S + "stages: {}\n", "2: stages: missing: list the stages to run"),
        (S, "1: stages: missing: list the stages to run"),
        (C + "seed: seven\n", "3: seed: expected a whole number, got 'seven'"),
        (C + "seed: true\n", "3: seed: expected a whole number, got True"),
        (C + "seed: -1\n", "3: seed: expected a whole number from 0 to 4294967295, got -1"),
        (C + "name: 5\n", "3: name: expected text, got 5"),
        (C + "store: 5\n", "3: store: expected text, got 5"),
        (C + "store: hdfs://host/x\n", "3: store: hdfs://host/x: expected a folder, s3://BUCKET/PREFIX or gs:"),
        ("- a\n- b\n", "1: expected keys and values (name, sources, stages, …), got a list"),
        ("", "1: expected keys and values (name, sources, stages, …), got no value"),
        ("stages: [\n", "2: not readable as YAML"),
        # stages
        (T + "  corpsu: {}\n",
         "3: stages.corpsu: unknown stage 'corpsu'. Did you mean corpus? (Stages: corpus, tokenizer, tokens,"),
        (T + "  mine: {}\n",
         "3: stages.mine: unknown stage 'mine'. (Stages: corpus, tokenizer, tokens, pretrain, conversations, sft) "
         "(another name for a stage is written `name: {stage: KIND, …}`)"),
        (T + "  mine: {stage: corpsu}\n", "3: stages.mine: unknown stage 'corpsu'. Did you mean corpus?"),
        (T + "  mine: {stage: [corpus]}\n", "3: stages.mine: unknown stage ['corpus']."),
        (T + "  evaluate: {}\n", "3: stages.evaluate: this name is reserved"),
        (T + "  run: {stage: corpus}\n", "3: stages.run: this name is reserved"),
        (T + "  a/b: {stage: corpus}\n", "3: stages.a/b: this name is reserved"),
        (T + "  mine: {stage: evaluate}\n", "3: stages.mine: unknown stage 'evaluate'."),
        # inputs
        ("stages:\n  tokenizer: {}\n",
         "2: stages.tokenizer: needs a corpus, and no earlier stage makes one; put one of these before it: corpus"),
        (D + "  tokens: {}\n", "4: stages.tokens: needs a tokenizer"),
        (D + "  tokenizer: {from: corpsu}\n",
         "4: tokenizer.from: no earlier stage 'corpsu'. Did you mean corpus?"),
        (T + "  tokenizer: {from: corpus}\n  corpus: {}\n", "3: tokenizer.from: no earlier stage 'corpus'."),
        (D + "  tokenizer: {from: {a: b}}\n",
         "4: tokenizer.from: expected a name or a list of names, got keys and values"),
        (D + "  tokenizer: {from: 5}\n",
         "4: tokenizer.from: expected a name or a list of names, got 5"),
        (D + "  tokenizer: {}\n  tokens: {}\n  pretrain: {from: tokenizer}\n",
         "6: pretrain.from: tokenizer makes a tokenizer; pretrain uses tokens, model"),
        # sources
        ("sources:\n  s: {path: a}\nstages: {corpus: {}}\n", "2: sources.s.kind: missing (Kinds: docstrings,"),
        ("sources:\n  s: {kind: jsnol}\nstages: {corpus: {}}\n",
         "2: sources.s.kind: unknown kind 'jsnol'. Did you mean jsonl? (Kinds: docstrings,"),
        ("sources:\n  s: {kind: [jsonl]}\nstages: {corpus: {}}\n", "2: sources.s.kind: unknown kind"),
        ("sources:\n  s: {kind: jsonl}\nstages: {corpus: {}}\n", "2: sources.s.path: missing; it has no default"),
        ("sources:\n  s:\n    kind: jsonl\n    path: 5\nstages: {corpus: {}}\n",
         "4: sources.s.path: input should be a valid string; got 5"),
        ("sources:\n  s:\n    kind: jsonl\n    path: a\n    langauge: en\nstages: {corpus: {}}\n",
         "5: sources.s.langauge: unknown key. Did you mean sources.s.language?"),
        ("sources:\n  s: {kind: jsonl, path: a, rows: prefs}\nstages: {corpus: {}}\n",
         "2: sources.s.rows: input should be 'text', 'documents', 'conversations', 'preferences', 'prompts' or "),
        ("sources:\n  s: {kind: jsonl, path: a, rows: images}\nstages: {corpus: {}}\n",
         "2: sources.s.rows: expected text, documents, conversations, preferences, prompts: only kind: images reads"),
        ("sources: [a]\nstages: {corpus: {}}\n", "1: sources: expected keys and values, got a list"),
        ("sources:\n  s:\nstages: {corpus: {}}\n", "2: sources.s: expected keys and values, got no value"),
        ("stages:\n  corpus: {}\n", "2: stages.corpus: reads sources with rows: text, and the recipe has none"),
        ("sources:\n  s: {kind: jsonl, path: a, rows: preferences}\nstages:\n  corpus: {}\n",
         "4: stages.corpus: reads sources with rows: text, and the recipe has none"),
        ("sources:\n  s: {kind: jsonl, path: a, rows: preferences}\nstages:\n  corpus: {sources: [s]}\n",
         "4: corpus.sources: s has rows: preferences, corpus reads text"),
        (T + "  corpus: {sources: [t]}\n", "3: corpus.sources: no source 't'."),
        (T + "  corpus: {sources: {s: 1}}\n", "3: corpus.sources: expected a name or a list of names"),
        (D + "  tokenizer: {sources: [s]}\n", "4: tokenizer.sources: tokenizer reads no sources"),
        # cluster and evaluation
        (C + "cluster:\n  corpsu: {workers: 2}\n",
         "4: cluster.corpsu: no such stage. Did you mean corpus?"),
        (C + "cluster:\n  corpus: {wrokers: 2}\n",
         "4: cluster.corpus.wrokers: unknown key. Did you mean cluster.corpus.workers?"),
        (C + "cluster:\n  corpus: {workers: 0}\n", "4: cluster.corpus.workers: input should be"),
        (C + "cluster: [corpus]\n", "3: cluster: expected keys and values, got a list"),
        (C + "evaluate: {wrod: a}\n", "3: evaluate.wrod: unknown key. Did you mean evaluate.word?"),
        (C + "base: Qwen/Qwen3-0.6B\n", "3: base: expected keys and values, got text"),
        (C + "base: {modle: x}\n", "3: base.modle: unknown key. Did you mean base.model?"),
        (C + "base: {}\n", "3: base.model: missing; it has no default"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    assert f"recipe.yaml:{message}" in error(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("name: 中文".encode("gb18030"))
    with pytest.raises(UserError, match=r"recipe.yaml: not UTF-8 text"):
        reader.load(tmp_path / "recipe.yaml", TABLE)


def test_from_names_inputs_and_the_nearest_earlier_stages_are_the_others(tmp_path: Path) -> None:
    recipe = load(tmp_path, S + "stages:\n  corpus: {}\n  tokenizer: {}\n  tokens: {}\n  one: {stage: pretrain}\n"
                               "  two: {stage: pretrain, from: one}\n  other: {stage: tokenizer, word: b}\n"
                               "  three: {stage: pretrain, from: [one, tokens]}\n")  # fmt: skip
    assert recipe.entry("two").inputs == {"tokens": "tokens", "model": "one"}
    assert recipe.entry("three").inputs == {"tokens": "tokens", "model": "one"}


def test_a_model_satisfies_the_need_for_a_tokenizer(tmp_path: Path) -> None:
    recipe = load(tmp_path, "base: {model: a/b}\n" + S + "stages:\n  corpus: {}\n  tokens: {}\n  pretrain: {}\n")
    assert recipe.entry("tokens").inputs == {"corpus": "corpus", "tokenizer": "base"}
    assert recipe.entry("pretrain").inputs == {"tokens": "tokens", "model": "base"}


def test_images_are_the_corpus_only_where_there_is_no_other_or_where_they_are_named(tmp_path: Path) -> None:
    sources = "sources:\n  s: {kind: jsonl, path: a}\n  p: {kind: images, path: b}\nstages:\n"
    file = tmp_path / "recipe.yaml"
    corpora = {
        "  images: {}\n  tokenizer: {}\n": "images",
        "  corpus: {}\n  images: {}\n  tokenizer: {}\n": "corpus",
        "  corpus: {}\n  images: {}\n  tokenizer: {from: images}\n": "images",
    }
    for stages, corpus in corpora.items():
        file.write_text(sources + stages)
        recipe = reader.load(file, STAGES)
        assert recipe.entry("tokenizer").inputs == {"corpus": corpus}
        assert list(recipe.entry("images").sources) == ["p"]
    file.write_text("sources:\n  s: {kind: jsonl, path: a}\nstages:\n  images: {}\n")
    with pytest.raises(UserError, match=r"4: stages\.images: reads sources with rows: images, and the recipe has none"):
        reader.load(file, STAGES)


def test_a_base_model_beside_the_recipe_has_its_full_path_and_a_hub_id_is_kept(tmp_path: Path) -> None:
    text = "base: {model: mine}\n" + S + "stages: {corpus: {}}\n"
    assert load(tmp_path, text).entry("base").options.model_dump()["model"] == "mine"
    (tmp_path / "mine").mkdir()
    assert load(tmp_path, text).entry("base").options.model_dump()["model"] == str(tmp_path / "mine")


def test_a_stage_reads_all_sources_of_its_kind_of_rows_or_those_it_names(tmp_path: Path) -> None:
    sources = (
        "sources: {a: {kind: chinese}, b: {kind: text, path: x}, c: {kind: jsonl, path: y, rows: conversations}}\n"
    )
    recipe = load(tmp_path, sources + "stages: {corpus: {}, one: {stage: corpus, sources: b}, "
                                     "two: {stage: corpus, sources: [b, a]}}\n")  # fmt: skip
    assert [list(e.sources) for e in recipe.entries] == [["a", "b"], ["b"], ["a", "b"]]


@pytest.mark.parametrize(
    ("override", "stage", "key", "value"),
    [
        ("pretrain.rate=1e-4", "pretrain", "rate", 1e-4),
        ("stages.pretrain.times=5", "pretrain", "times", 5),
        ("tokenizer.word=中文", "tokenizer", "word", "中文"),  # the recipe has no keys for it
        ("pretrain.schedule.kind=cosine", "pretrain", "schedule", {"kind": "cosine", "warmup": 0.1}),
        ("tokens.weights={en: 0.8, zh: 0.2}", "tokens", "weights", {"en": 0.8, "zh": 0.2}),
        ("corpus.word=a=b", "corpus", "word", "a=b"),
    ],
)
def test_set_overrides_a_value(tmp_path: Path, override: str, stage: str, key: str, value: object) -> None:
    assert load(tmp_path, GOOD, overrides=[override]).entry(stage).options.model_dump()[key] == value


def test_set_store_and_seed_override_top_keys(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, overrides=["seed=9", "cluster.pretrain.workers=4", "sources.books.language=zh"])
    assert recipe.seed == 9
    assert recipe.entry("pretrain").cluster == ToyCluster(workers=4)
    assert recipe.entry("corpus").sources["books"].language == "zh"
    recipe = load(tmp_path, GOOD, overrides=["seed=9"], seed=11, store="/else/where")
    assert (recipe.seed, recipe.store) == (11, "/else/where")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.rate", "--set pretrain.rate: expected key.path=value, such as pretrain.budget_tokens=1000000"),
        ("=5", "--set =5: expected key.path=value"),
        ("pretrain..rate=5", "expected key.path=value"),
        ("pretrian.rate=5", "--set pretrian.rate=5: no stage or key 'pretrian'. Did you mean pretrain?"),
        ("pretrain.rate.x=5", "recipe.yaml:11: pretrain.rate: input should be a valid number; got {'x': 5}"),
        ("tokens.rate.x=5", "--set tokens.rate.x=5: rate is 0.003, it has no keys"),
        ("pretrain.wrod=5", "recipe.yaml:11: pretrain.wrod: unknown key. Did you mean pretrain.word?"),
        ("pretrain.rate=[1,", "not readable as YAML"),
        ("pretrain=5", "recipe.yaml:11: stages.pretrain: expected keys and values, got 5"),
        ("seed=-5", "recipe.yaml:2: seed: expected a whole number from 0"),
    ],
)
def test_an_invalid_set_is_an_error(tmp_path: Path, override: str, message: str) -> None:
    assert message in error(tmp_path, GOOD, overrides=[override])


def test_set_on_a_recipe_whose_stages_are_a_list_is_an_error(tmp_path: Path) -> None:
    text = S + "stages: [{corpus: {}}]\n"
    assert "--set corpus.word=b: no stage or key 'corpus'." in error(tmp_path, text, overrides=["corpus.word=b"])


def test_the_resolved_recipe_loads_to_the_same_entries(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, overrides=["pretrain.rate=1e-4"], seed=5)
    again = load(tmp_path, recipe.to_yaml())
    assert again.entries == recipe.entries
    assert again.seed == 5
    assert yaml.safe_load(recipe.to_yaml())["stages"]["corpus"]["word"] == "中文"


def test_an_unknown_entry_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no stage 'pretrian'. Did you mean pretrain\? \(Stages here: corpus,"):
        load(tmp_path, GOOD).entry("pretrian")


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "pipelines/recipes/demo.yaml", "micro"])
def test_shipped_recipes_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find(name).parent == shipped.SHIPPED


def test_a_missing_recipe_is_an_error_that_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.yaml: no such recipe; give a YAML file or one .* demo, .*micro"):
        shipped.find(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="no such recipe"):
        shipped.find(tmp_path)
    with pytest.raises(UserError, match="no such recipe"):
        shipped.find("elsewhere/demo.yaml")


def test_shipped_recipes_load_with_the_real_stages() -> None:
    for file in shipped.SHIPPED.glob("*.yaml"):
        recipe = reader.load(file, cli._stages())
        assert recipe.name == file.stem
        assert recipe.evaluate is not None


def test_the_json_schema_has_every_stage_and_its_keys() -> None:
    tree = schema.json_schema(TABLE)
    assert set(tree["properties"]) == set(reader.TOP_KEYS)
    stages = tree["properties"]["stages"]["properties"]
    assert "evaluate" not in stages
    assert stages["corpus"]["properties"]["word"]["description"] == "Word that is written"
    assert {"stage", "from", "sources"} <= set(stages["corpus"]["properties"])


def test_reading_recipes_loads_no_heavy_library() -> None:
    heavy = ("ray", "torch", "numpy", "pyarrow")
    script = f"import sys, pipelines.recipe.reader; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[]\n"


RULES = """\
sources:
  code: {kind: jsonl, path: code.jsonl, filters: {quality: null, custom: [mine.py:good]}, privacy: {email: mask}}
stages:
  corpus: {filters: {preset: gopher, custom: [mine.py:good]}, privacy: {phone: surrogate}}
"""


def corpus(folder: Path, text: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return reader.load(file, STAGES)


def test_the_rules_of_a_source_are_laid_over_the_stages(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def good(text):\n    return True\n")
    recipe = corpus(tmp_path, RULES)
    entry = recipe.entry("corpus")
    rules = entry.options.rules(entry.sources["code"], seed=7)  # pyright: ignore[reportAttributeAccessIssue]
    names = [type(filter_).__name__ for filter_ in rules.filters]
    assert names == ["Language", "GopherRepetition", "GopherQuality", "Custom"]
    assert rules.privacy == {"phone": "surrogate", "email": "mask"}
    assert rules.filters[-1].function.file == str(tmp_path / "mine.py")  # from the recipe's folder


def test_the_rules_of_a_source_and_the_users_code_are_in_its_identity(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def good(text):\n    return True\n")
    (tmp_path / "code.jsonl").write_text('{"text": "a"}\n')

    def identities(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        entry = corpus(tmp_path, text).entry("corpus")
        return entry.sources["code"].identity(), entry.options.identity()

    plain = RULES.replace(", filters: {quality: null, custom: [mine.py:good]}, privacy: {email: mask}", "")
    assert "filters" not in identities(plain)[0] and "privacy" not in identities(plain)[0]
    before = identities(RULES)
    assert before[0]["filters"]["quality"] is None and before[0]["privacy"] == {"email": "mask"}
    assert str(tmp_path) not in str(before)
    code.write_text("def good(text):\n    return False\n")
    after = identities(RULES)
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quality: null", "qualty: null", "recipe.yaml:2: sources.code.filters.qualty: unknown key. Did you mean"),
        ("quality: null", "quality: {min_stop_wrds: 1}", "Did you mean sources.code.filters.quality.min_stop_words?"),
        ("path: code.jsonl", "path: code.jsonl, rows: prompts", "filters: only rows: text have filters"),
        ("{email: mask}", "{email: hide}", "recipe.yaml:2: sources.code.privacy.email"),
        ("{phone: surrogate}", "{fax: mask}", "recipe.yaml:4: corpus.privacy"),
        ("preset: gopher", "preset: goofer", "recipe.yaml:4: corpus.filters.preset"),
    ],
)
def test_what_is_wrong_with_rules_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        corpus(tmp_path, RULES.replace(old, new))
    assert message in str(caught.value)
