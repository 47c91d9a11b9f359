"""`rayse init`: prints what each file contains, and writes a recipe that runs."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.errors import UserError
from pipelines.recipe import reader, yaml_lines
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import plan
from pipelines.stages import STAGES
from pipelines.stages.pretrain import check
from pipelines.store.artifacts import Store
from pipelines.verbs.init import Sizes, write_recipe
from pipelines.verbs.starter_sources import plain

ENGLISH = [f"Chapter {i}. It was a bright cold day in April, and the clocks were striking {i}." for i in range(200)]
CHINESE = [f"第{i}回。话说天下大势，分久必合，合久必分。" for i in range(200)]


def jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def texts(file: Path, rows: list[str]) -> Path:
    return jsonl(file, [{"id": i, "text": row, "source": f"book {i % 4}"} for i, row in enumerate(rows)])


def load(out: Path) -> Recipe:
    """Reads the recipe as `rayse run` does, and checks that its sources exist and its options are consistent."""
    recipe = reader.load(out, STAGES)
    plan(recipe, Store(out.parent / "store"))
    pretrain, tokens = recipe.entry("pretrain").options, recipe.entry("tokens").options
    assert pretrain.model_dump()["budget_tokens"] >= pretrain.model_dump()["batch_tokens"]
    check(pretrain, {"length": tokens.model_dump()["length"]}, out, None)  # type: ignore[arg-type]
    return recipe


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["init", *map(str, arguments)])


def test_files_of_both_languages_make_a_bilingual_recipe(tmp_path: Path) -> None:
    texts(tmp_path / "data" / "novels.jsonl.gz", ENGLISH * 20)
    texts(tmp_path / "data" / "三国.jsonl", CHINESE * 4)
    done = init(tmp_path / "data" / "novels.jsonl.gz", tmp_path / "data" / "三国.jsonl", "--out", tmp_path / "a.yaml")
    assert done.exit_code == 0, done.output
    assert (
        "novels: jsonl, 4,000 rows" in done.stdout
        and "text in column text, language en, grouped by source" in done.stdout
    )
    assert "    Chapter 0. It was a bright cold day" in done.stdout
    assert "三国: jsonl, 800 rows" in done.stdout and "    第0回。话说天下大势" in done.stdout
    assert f"next: rayse run {tmp_path / 'a.yaml'}" in done.stdout

    recipe = load(tmp_path / "a.yaml")
    sources = {name: source.model_dump() for name, source in recipe.entry("corpus").sources.items()}
    assert list(sources) == ["novels", "三国"]
    assert sources["novels"]["path"] == "data/novels.jsonl.gz"  # relative: the folder can move
    assert (sources["novels"]["language"], sources["三国"]["language"]) == ("en", "zh")
    assert sources["novels"]["group"] == "source"
    tokens = recipe.entry("tokens").options.model_dump()
    assert (tokens["mixture"], tokens["min_language_fraction"], tokens["max_repeats"]) == (None, 0.2, 3)
    assert [entry.name for entry in recipe.entries] == ["corpus", "tokenizer", "tokens", "pretrain"]
    assert recipe.evaluate is not None
    shutil.move(tmp_path / "a.yaml", tmp_path / "data" / "b.yaml")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "data" / "b.yaml")


def test_a_single_language_is_not_repeated(tmp_path: Path) -> None:
    init(texts(tmp_path / "novels.jsonl", ENGLISH), "--out", tmp_path / "recipe.yaml")
    recipe = load(tmp_path / "recipe.yaml")
    assert recipe.entry("tokens").options.model_dump()["min_language_fraction"] == 0
    assert recipe.name == tmp_path.name


@pytest.mark.parametrize(
    "other",
    [
        "朝の市場は港のすぐ隣にあって、魚を売る声が遠くまで聞こえる。",
        "작은 마을의 빵집 주인은 매일 새벽 네 시에 일어나 반죽을 시작하고, 아이들은 학교에 가는 길에 빵을 사 먹는다.",
    ],
)
def test_japanese_and_korean_do_not_count_as_chinese(tmp_path: Path, other: str) -> None:
    file = texts(tmp_path / "mixed.jsonl", [f"{CHINESE[0]}{n}" if n % 2 else f"{other}{n}" for n in range(100)])
    facts = json.loads(init(file, "--out", tmp_path / "r.yaml", "--json").stdout)
    chinese = sum(len(f"{CHINESE[0]}{n}".encode()) for n in range(100) if n % 2)
    assert facts["sizes"]["text_bytes"] == facts["sources"]["mixed"]["text_bytes"] == {"zh": chinese}
    assert facts["sources"]["mixed"]["language"] == "auto"
    alone = init(texts(tmp_path / "alone.jsonl", [f"{other}{n}" for n in range(100)]), "--out", tmp_path / "s.yaml")
    assert alone.exit_code == 0 and "; a recipe is in English and Chinese" in alone.stdout
    assert "warning: the run would leave out, by its rules, 100 language" in alone.stdout
    load(tmp_path / "s.yaml")


def test_data_outside_the_recipes_folder_have_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(tmp_path / "data" / "novels.jsonl", ENGLISH)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert init("../data/novels.jsonl").exit_code == 0
    recipe = load(tmp_path / "here" / "recipe.yaml")
    path = recipe.entry("corpus").sources["novels"].model_dump()["path"]
    assert path == str(tmp_path / "data" / "novels.jsonl")


def test_conversations_and_pairs_add_stages_after_the_base_model(tmp_path: Path) -> None:
    texts(tmp_path / "novels.jsonl", ENGLISH)
    jsonl(tmp_path / "pairs.jsonl", [{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}] * 3)
    jsonl(tmp_path / "talks.jsonl", [{"instruction": "Greet me", "output": "Hi"}] * 3)
    init(tmp_path / "novels.jsonl", tmp_path / "talks.jsonl", "--out", tmp_path / "sft.yaml")
    recipe = load(tmp_path / "sft.yaml")
    assert [entry.name for entry in recipe.entries][4:] == ["conversations", "sft"]
    assert list(recipe.entry("conversations").sources) == ["talks"]
    assert recipe.entry("tokens").options.model_dump()["length"] == 512  # enough for a conversation
    init(*(tmp_path / f"{name}.jsonl" for name in ("novels", "talks", "pairs")), "--out", tmp_path / "ppo.yaml")
    recipe = load(tmp_path / "ppo.yaml")
    aligned = ["conversations", "sft", "preferences", "reward_model", "ppo"]
    assert [entry.name for entry in recipe.entries][4:] == aligned
    assert list(recipe.entry("preferences").sources) == ["pairs"]
    assert dict(recipe.entry("ppo").inputs) == {
        "model": "sft", "conversations": "conversations", "reward_model": "reward_model"
    }  # fmt: skip
    assert list(recipe.entry("corpus").sources) == ["novels"]


def test_rows_that_no_stage_trains_on_are_listed(tmp_path: Path) -> None:
    texts(tmp_path / "novels.jsonl", ENGLISH)
    jsonl(tmp_path / "questions.jsonl", [{"prompt": "Why?"}] * 3)
    done = init(tmp_path / "novels.jsonl", tmp_path / "questions.jsonl", "--out", tmp_path / "r.yaml")
    assert "listed, not used; they are for evaluation sets (corpus: decontaminate)" in done.stdout
    assert "# prompts: listed, not used" in (tmp_path / "r.yaml").read_text(encoding="utf-8")
    recipe = load(tmp_path / "r.yaml")
    assert [entry.name for entry in recipe.entries] == ["corpus", "tokenizer", "tokens", "pretrain"]


def test_files_whose_rows_no_stage_trains_on_give_no_recipe(tmp_path: Path) -> None:
    jsonl(tmp_path / "questions.jsonl", [{"prompt": "Why?"}] * 3)
    done = init(tmp_path / "questions.jsonl", "--out", tmp_path / "r.yaml")
    assert done.exit_code == 2 and "only prompts, which no stage trains on" in done.stderr
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize(
    ("prompt", "sources"), [("Why?", ["documentation"]), (CHINESE[0], ["documentation", "essays"])]
)
def test_without_running_text_the_bundled_text_is_used(tmp_path: Path, prompt: str, sources: list[str]) -> None:
    jsonl(tmp_path / "talks.jsonl", [{"prompt": prompt, "response": prompt}] * 3)
    assert init(tmp_path / "talks.jsonl", "--out", tmp_path / "r.yaml").exit_code == 0
    recipe = reader.load(tmp_path / "r.yaml", STAGES)
    assert list(recipe.entry("corpus").sources) == sources
    assert "text that comes with Rayse replaces it" in (tmp_path / "r.yaml").read_text(encoding="utf-8")


def test_files_of_one_format_in_a_folder_are_one_source(tmp_path: Path) -> None:
    for number in range(3):
        texts(tmp_path / "data" / f"part-{number}.jsonl", ENGLISH)
        (tmp_path / "data" / f"page-{number}.txt").write_text("\n".join(ENGLISH), encoding="utf-8")
    assert init(tmp_path / "data", "--out", tmp_path / "r.yaml").exit_code == 0
    sources = [s.model_dump() for s in load(tmp_path / "r.yaml").entry("corpus").sources.values()]
    assert [(s["kind"], s["path"]) for s in sources] == [("text", "data"), ("jsonl", "data")]
    texts(tmp_path / "data" / "other.jsonl", CHINESE)
    assert init(tmp_path / "data", "--out", tmp_path / "s.yaml").exit_code == 0
    sources = [s.model_dump() for s in load(tmp_path / "s.yaml").entry("corpus").sources.values()]
    assert [(s["kind"], s["language"], s["path"]) for s in sources] == [
        ("text", "en", "data"),
        ("jsonl", "zh", "data/other.jsonl"),
        ("jsonl", "en", [f"data/part-{number}.jsonl" for number in range(3)]),
    ]


def test_unusual_file_names_are_preserved(tmp_path: Path) -> None:
    names = [
        "a b: c.jsonl",
        "1e5.jsonl",
        "no.jsonl",
        "{x}.jsonl",
        "x'y\"z.jsonl",
        "#1 # 2.jsonl",
        "v1.2.jsonl",
        "新 书.jsonl",
    ]
    files = [texts(tmp_path / name, ENGLISH) for name in names]
    assert init(*files, "--out", tmp_path / "r.yaml").exit_code == 0
    sources = load(tmp_path / "r.yaml").entry("corpus").sources
    assert [source.model_dump()["path"] for source in sources.values()] == names
    assert all("." not in name and " " not in name for name in sources)  # --set sources.NAME.language=zh works


def test_files_with_the_same_name_get_different_source_names(tmp_path: Path) -> None:
    files = [texts(tmp_path / folder / "text.jsonl", ENGLISH) for folder in ("a", "b")]
    init(*files, "--out", tmp_path / "r.yaml")
    assert list(load(tmp_path / "r.yaml").entry("corpus").sources) == ["text", "text_2"]


def test_json_is_one_object(tmp_path: Path) -> None:
    file = texts(tmp_path / "novels.jsonl", ENGLISH)
    done = init(file, "--out", tmp_path / "r.yaml", "--json")
    facts = json.loads(done.stdout)
    assert facts["recipe"] == str(tmp_path / "r.yaml")
    assert facts["sources"]["novels"]["num_rows"] == 200
    assert facts["sources"]["novels"]["format"] == "text: text"
    assert facts["sources"]["novels"]["text_bytes"] == {"en": sum(len(text) for text in ENGLISH)}
    assert len(facts["sources"]["novels"]["sample"]) == 3
    assert facts["files"][str(file)] == {
        "rows_read": 200, "rows_used": 200, "not_used": {}, "columns_used": {"text": 200, "source": 200},
        "columns_not_used": {"id": 200}, "columns_kept": {}, "encoding": "utf-8", "delimiter": None,
        "language": "en", "languages": {"en": 200}, "other_languages": {}, "turns_cut": {},
        "turns_joined": 0, "exact": True,
    }  # fmt: skip
    assert facts["left_out"] == facts["not_understood"] == []
    assert facts["sizes"]["size"] == "2m"


def test_an_existing_recipe_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("mine")
    done = init(texts(tmp_path / "novels.jsonl", ENGLISH), "--out", tmp_path / "r.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "r.yaml: exists already; name another recipe with --out" in done.stderr
    assert (tmp_path / "r.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file"),
        ("empty.jsonl", b"", "empty.jsonl: the file is empty"),
        (
            "picture.png",
            b"\x89PNG\0",
            "picture.png: nothing of it was understood: picture.png: no image with a caption",
        ),
        (
            "numbers.jsonl",
            b'{"a": 1}\n',
            "numbers.jsonl: nothing of it was understood: numbers.jsonl: no column with text",
        ),
        ("broken.jsonl", b"{\n", "broken.jsonl: nothing of it was understood: broken.jsonl:1: not JSON"),
        ("damaged.jsonl.gz", b'{"text": "a"}\n', "understood: damaged.jsonl.gz:1: damaged or not gzip"),
        ("damaged.parquet", b"PAR1", "damaged.parquet: not a Parquet file or damaged"),
    ],
)
def test_unusable_files_are_reported_and_no_recipe_is_written(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = init(tmp_path / name, "--out", tmp_path / "r.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "r.yaml").exists()


def test_a_url_is_refused_with_what_to_do(tmp_path: Path) -> None:
    done = init("s3://bucket/raw/a.jsonl", "--out", tmp_path / "recipe.yaml")
    assert done.exit_code == 2
    assert "s3://bucket/raw/a.jsonl: is a URL, and init reads local files" in " ".join(done.stderr.split())


def test_an_unwritable_recipe_is_a_user_error(tmp_path: Path) -> None:
    data = texts(tmp_path / "novels.jsonl", ENGLISH)
    with pytest.raises(UserError, match=r"novels.jsonl/r.yaml: cannot be written \(.*\); name another recipe"):
        write_recipe([data], data / "r.yaml", as_json=False)


MB, GB = 10**6, 10**9


@pytest.mark.parametrize(
    ("text_bytes", "vocabulary", "size", "budget", "repeats"),
    [
        ({"en": 20_000}, 2048, "2m", 22_000, {"en": 1}),  # 5,429 tokens, four times
        ({"en": 1 * MB}, 2048, "2m", 1_000_000, {"en": 1}),  # 271,429 tokens: to a million
        ({"en": 23 * MB, "zh": 4 * MB}, 4096, "2m", 7_800_000, {"en": 1, "zh": 23 / 16}),
        ({"en": 50 * MB, "zh": 50 * MB}, 8192, "2m", 27_000_000, {"en": 1, "zh": 1}),
        ({"en": 1000 * MB, "zh": 10 * MB}, 16_384, "6m", 120_000_000, {"en": 1, "zh": 3}),
        ({"zh": 10 * GB}, 32_768, "125m", 2_500_000_000, {"zh": 1}),
        ({"en": 500 * GB}, 32_768, "1b", 20_000_000_000, {"en": 1}),
    ],
)  # fmt: skip
def test_sizes_follow_from_the_amount_of_text(
    text_bytes: dict[str, int], vocabulary: int, size: str, budget: int, repeats: dict[str, float]
) -> None:
    sizes = Sizes(text_bytes)
    assert (sizes.vocabulary, sizes.size, sizes.budget_tokens) == (vocabulary, size, budget)
    assert sizes.repeats == pytest.approx(repeats)
    assert sizes.batch_tokens % sizes.length == 0


@pytest.mark.parametrize(
    "value", ["a", "a b", "1e5", "true", "null", "~", "", "中文", "a: b", "x\ny", "é", "-", "a#b", "#"]
)
def test_plain_yaml_parses_to_the_same_value(value: str) -> None:
    assert yaml_lines.scalar(plain({"key": [value, 0.2, 5, 123_456, True]}))["key"] == [value, 0.2, 5, 123_456, True]


def test_real_corpora_make_a_sensible_recipe(data_dir: Path, tmp_path: Path) -> None:
    done = init(data_dir / "corpus_en.jsonl.gz", data_dir / "corpus_zh.jsonl.gz",
                data_dir / "preference_hh_en.jsonl.gz", "--out", tmp_path / "r.yaml")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "corpus_en: jsonl, 16,194 rows, 6.9 MB" in done.stdout
    assert "corpus_zh: jsonl, 20,206 rows, 3.4 MB" in done.stdout
    recipe = load(tmp_path / "r.yaml")
    assert recipe.entry("tokenizer").options.model_dump()["vocabulary"] == 4096
    assert recipe.entry("tokens").options.model_dump()["min_language_fraction"] == 0.2
    pretrain = recipe.entry("pretrain").options.model_dump()
    assert pretrain["size"] == "2m" and 5_000_000 < pretrain["budget_tokens"] < 10_000_000
    assert list(recipe.entry("corpus").sources) == ["corpus_en", "corpus_zh"]
