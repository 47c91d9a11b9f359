"""What `rayse init` finds in a folder: data sets, splits that are held out, documents, and what it passes over."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources.dataset import splits
from pipelines.data.sources.folder_files import caches, cards, passed_over, splits_beside_train
from pipelines.data.sources.sniffing import SniffResult, sniff
from pipelines.errors import UserError

CHAT, PAIR = {"prompt": "Say yes", "completion": "Yes."}, {"prompt": "Say yes", "chosen": "Yes.", "rejected": "No."}


def sniff_one(path: Path) -> SniffResult:
    (result,) = sniff(path)
    return result


def test_files_of_no_known_kind_in_a_folder_are_counted_and_hidden_ones_are_not_there(tmp_path: Path) -> None:
    for name in ("a.txt", "b.png", "c.png", ".d.png", ".git/e.txt", "__MACOSX/f.txt", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Some text.")
    assert [result.path.name for result in sniff(tmp_path)] == ["a.txt"]
    assert passed_over(tmp_path) == {".png": 2, "Makefile": 1}


def test_documents_of_one_kind_in_a_folder_are_one_source(tmp_path: Path) -> None:
    for name in ("a.html", "b.html", "c.txt"):
        (tmp_path / name).write_text("<p>Some words of a page that is about something.</p>")
    assert [(result.path, result.options) for result in sniff(tmp_path)] == [
        (tmp_path / "c.txt", {"kind": "text", "split": "file", "language": "en"}),
        (tmp_path, {"kind": "html", "language": "en"}),
    ]


def test_a_data_set_is_one_source_that_names_the_splits_it_leaves_out(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = pa.table({"prompt": ["Say yes"], "completion": ["Yes."]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    result = sniff_one(tmp_path)
    expected = {"kind": "dataset", "split": "train", "rows": "conversations", "language": "en"}
    assert result.options == expected
    assert result.problems == (f"{tmp_path.name}: splits that are not read: test",)


def test_each_configuration_of_a_data_set_is_a_source_of_its_own(tmp_path: Path) -> None:
    for name, row in (("chats/data/train", CHAT), ("chats/data/test", PAIR), ("pairs/train", PAIR)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("# What this is\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    chats, pairs = sniff(tmp_path)
    assert (chats.path, chats.options["rows"]) == (tmp_path / "chats", "conversations")
    assert chats.problems == ("chats: splits that are not read: test",)
    assert (pairs.path, pairs.options["rows"]) == (tmp_path / "pairs", "preferences")
    assert [file.name for file in cards(tmp_path)] == ["README.md", "dataset_infos.json"]
    for name in "ab":
        (tmp_path / f"{name}.md").write_text(f"Article {name} of the two.\n")
    named = {path.name for result in sniff(tmp_path) for path in result.paths}
    assert named == {"chats", "pairs", "a.md", "b.md"}
    assert passed_over(tmp_path) == {} and splits_beside_train(tmp_path) == []


def test_files_beside_data_sets_are_read(tmp_path: Path) -> None:
    """One in the layout of the hub, and one that was saved."""
    (tmp_path / "hub/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([CHAT]), tmp_path / "hub/data/train-00000-of-00001.parquet")
    for name in ("hub/more.jsonl", "own.jsonl", "saved/notes.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(PAIR) + "\n")
    for split in ("train", "test"):
        (tmp_path / "saved" / split).mkdir()
        table = pa.Table.from_pylist([CHAT])
        with pa.ipc.new_stream(str(tmp_path / f"saved/{split}/data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
        (tmp_path / "saved" / split / "state.json").write_text("{}")
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = {result.path.relative_to(tmp_path).as_posix(): result.kind for result in sniff(tmp_path)}
    assert found == {
        "hub": "dataset", "saved": "dataset", "hub/more.jsonl": "jsonl", "own.jsonl": "jsonl",
        "saved/notes.jsonl": "jsonl",
    }  # fmt: skip
    assert passed_over(tmp_path) == {}
    (tmp_path / "saved/train/data-00000-of-00001.arrow").write_bytes(b"nonsense")
    (damaged,) = (result for result in sniff(tmp_path) if result.row_format is None)
    assert damaged.path.name == "saved" and "not an Arrow file" in damaged.problems[0]


def write_arrow(path: Path, row: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row])
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def test_caches_of_the_library_datasets_and_other_arrow_files_join_no_split(tmp_path: Path) -> None:
    (tmp_path / "hub/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([CHAT]), tmp_path / "hub/data/train-00000-of-00001.parquet")
    digest = "5b6a7f8091a2b3c4"
    cached = (
        f"cache-{digest}_00000_of_00002.arrow",
        f"hub/cache-{digest}.arrow",
        f"hub/data/cache-{digest[::-1]}.arrow",
    )
    for name in (*cached, "hub/data/more.arrow"):
        write_arrow(tmp_path / name, PAIR)
    found = {result.path.relative_to(tmp_path).as_posix(): result.options["rows"] for result in sniff(tmp_path)}
    assert found == {"hub": "conversations", "hub/data/more.arrow": "preferences"}
    assert [file.name for file in splits(tmp_path / "hub")["train"]] == ["train-00000-of-00001.parquet"]
    assert caches(tmp_path) == sorted(tmp_path / name for name in cached) and passed_over(tmp_path) == {}
    assert sniff_one(tmp_path / cached[0]).options["rows"] == "preferences"  # named, it is read
    (tmp_path / "only").mkdir()
    write_arrow(tmp_path / f"only/cache-{digest}.arrow", PAIR)
    with pytest.raises(UserError, match="of a known kind; 1 are caches of the library datasets, read if you name them"):
        sniff(tmp_path / "only")


@pytest.mark.parametrize("num_shards", [1, 2])
def test_of_what_the_library_datasets_prepared_only_train_is_read(
    tmp_path: Path, num_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library itself: a folder of its cache, with what `map` keeps there. A large set is divided into shards."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.MAX_SHARD_SIZE", 1 if num_shards > 1 else "500MB")
    files = {split: [str(tmp_path / f"{split}{n}.jsonl") for n in range(num_shards)] for split in ("train", "test")}
    for file in (file for split in files.values() for file in split):
        Path(file).write_text((json.dumps(CHAT) + "\n") * 2)
    prepared = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cached"))
    prepared["train"].map(lambda row: {"prompt": f"{row['prompt']}!"})
    result = sniff_one(tmp_path / "cached")
    assert (result.options["split"], result.options["rows"]) == ("train", "conversations")
    assert result.problems == (f"{result.path.name}: splits that are not read: test",)
    assert len(caches(tmp_path / "cached")) == 1 and len(splits(result.path)["train"]) == num_shards


def test_a_file_of_the_user_is_no_cache_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    """Nor is one that only looks temporary: the library gives these no suffix."""
    for name in ("tmpq0w9e8r7.arrow", "cache-hits.arrow", "rows.arrow"):
        write_arrow(tmp_path / name, PAIR)
    assert [file.name for file in splits(tmp_path)["train"]] == ["cache-hits.arrow", "rows.arrow", "tmpq0w9e8r7.arrow"]
    assert sorted(result.path.name for result in sniff(tmp_path)) == [file.name for file in splits(tmp_path)["train"]]
    assert caches(tmp_path) == []


def test_splits_beside_train_are_not_read_with_it(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl", "dev.csv"):
        (tmp_path / name).write_text('{"text": "a long row"}\n' if name.endswith("l") else "text,n\na long row,1\n")
    assert [result.path.name for result in sniff(tmp_path)] == ["train.jsonl"]
    assert [file.name for file in splits_beside_train(tmp_path)] == ["dev.csv", "dev.jsonl", "test.jsonl"]
    for name in ("train.txt", "test.txt", "more.txt", "train.html", "test.html"):
        (tmp_path / name).write_text("<p>a page of text</p>")
    names = ["more.txt", "train.txt", tmp_path.name, "train.jsonl"]  # pages may be about tests
    assert sorted(path.name for result in sniff(tmp_path) for path in result.paths) == sorted(names)
    (pages,) = (result for result in sniff(tmp_path) if result.kind == "html")
    assert pages.problems == ("test.html: named as splits beside train, and read; else name the others",)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["train/a.jsonl", "test/a.jsonl", "validation/b.csv", "more/a.jsonl"], ["more/a.jsonl", "train/a.jsonl"]),
        (["x/train/0.parquet", "x/test/0.parquet", "y/test/0.parquet"], ["x/train/0.parquet", "y/test/0.parquet"]),
        (["my_train.csv", "my-Test.csv", "my.dev.csv", "other_test.csv"], ["my_train.csv", "other_test.csv"]),
        (["train-1.jsonl", "train-2.jsonl", "test-1.jsonl"], ["train-1.jsonl", "train-2.jsonl"]),
        (["data/训练集.jsonl", "data/测试集.jsonl"], ["data/训练集.jsonl"]),
        (["test/a.jsonl", "b.jsonl"], ["b.jsonl", "test/a.jsonl"]),
        (["train.jsonl", "test.csv", "other-test.csv"], ["other-test.csv", "train.jsonl"]),
        (["my_train.jsonl.gz", "my_test.parquet", "my_dev.json"], ["my_train.jsonl.gz"]),
    ],
)
def test_splits_in_folders_and_within_names_are_not_read(tmp_path: Path, names: list[str], read: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("parquet"):
            pq.write_table(pa.table({"text": ["a row"]}), tmp_path / name)
        else:
            (tmp_path / name).write_text('{"text": "a row"}\n' if name.endswith("l") else "text,n\na row,1\n")
    assert sorted(result.path.relative_to(tmp_path).as_posix() for result in sniff(tmp_path)) == read
    left_out = {file.relative_to(tmp_path).as_posix() for file in splits_beside_train(tmp_path)}
    assert left_out == {*names} - {*read}


def test_documents_of_the_folder_train_are_one_source(tmp_path: Path) -> None:
    for name in ("train/pos/1", "train/neg/1", "test/pos/1", "test/neg/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.txt").write_text("A film that was long, and good for all that.\n")
    [result] = sniff(tmp_path)
    assert result.path == tmp_path / "train"


def test_pages_in_folders_that_are_named_as_splits_are_read(tmp_path: Path) -> None:
    for name in ("training", "dev"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.md").write_text("How this is done, in a few words that all can read.\n")
    assert splits_beside_train(tmp_path) == []
    [result] = sniff(tmp_path)
    assert result.path == tmp_path


def test_of_a_data_set_with_several_splits_to_train_on_each_is_a_source(tmp_path: Path) -> None:
    for split in ("train_sft", "test_sft", "train_gen", "test_gen"):
        pq.write_table(pa.table({"text": [split]}), tmp_path / f"{split}-00000-of-00001.parquet")
    results = sniff(tmp_path)
    assert [result.options["split"] for result in results] == ["train_gen", "train_sft"]
    assert results[0].problems == (f"{tmp_path.name}: splits that are not read: test_gen, test_sft",)


def test_splits_that_hold_rows_of_different_kinds_are_sources_of_their_own(tmp_path: Path) -> None:
    for name, row in (("sft", CHAT), ("pairs", PAIR)):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}-00000-of-00001.parquet")
    kinds = {result.options["split"]: result.options["rows"] for result in sniff(tmp_path)}
    assert kinds == {"sft": "conversations", "pairs": "preferences"}
    pq.write_table(pa.Table.from_pylist([CHAT]), tmp_path / "pairs-00000-of-00001.parquet")
    assert sniff_one(tmp_path).options == {"kind": "dataset", "rows": "conversations", "language": "en"}
