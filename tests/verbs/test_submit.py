"""What is uploaded to a cluster, and what is refused before any upload. Jobs: tests/cluster."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipelines.data.sources.source import Row
from pipelines.errors import UserError
from pipelines.objects import Objects
from pipelines.recipe import reader
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import plan
from pipelines.stages import STAGES, imported
from pipelines.store.artifacts import Store
from pipelines.verbs import submit
from pipelines.verbs.submit import file_system, is_this_machine
from tests import small_disk
from tests.object_server import needs_server, serving
from tests.toy_stages import TABLE

ELSEWHERE = "http://192.0.2.1:8265"  # an address reserved for documentation (RFC 5737)
TEXT = """\
name: small
store: store
base: {model: mine}
sources:
  books: {kind: text, path: [deep/books.txt, folder]}
  talks: {kind: jsonl, path: talks.jsonl, rows: conversations}
  essays: {kind: chinese}
stages:
  corpus: {}
  tokenizer: {}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("deep/books.txt", "folder/a.txt", "folder/b.md", "mine/config.json", "mine/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"the text of {name}")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    return tmp_path


def load(folder: Path, text: str | None = None, **arguments: Any) -> Recipe:
    if text is not None:
        (folder / "recipe.yaml").write_text(text)
    return reader.load(folder / "recipe.yaml", TABLE | {"base": imported.STAGE}, **arguments)


def test_local_files_are_uploaded_to_the_store_by_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    loaded = load(folder, overrides=["corpus.word=b"])
    store = Store(folder / "store").create()
    tree = submit._with_uploads(loaded, store)
    copies = [Path(path) for path in tree["sources"]["books"]["path"]]
    assert [copy.name for copy in copies] == ["books.txt", "a.txt", "b.md"]
    names = ("deep/books.txt", "folder/a.txt", "folder/b.md")
    assert [copy.read_text() for copy in copies] == [f"the text of {name}" for name in names]
    assert all(copy.is_relative_to(store.root / "sources") for copy in copies)
    assert tree["sources"]["essays"] == {"kind": "chinese"}  # comes with Rayse
    assert tree["sources"]["talks"]["path"] == "talks.jsonl"  # no stage reads it, so it is not uploaded
    base = Path(tree["base"]["model"])
    assert sorted(path.name for path in base.iterdir()) == ["config.json", "model.safetensors"]
    assert tree["stages"]["corpus"] == {"word": "b"}
    assert loaded.tree["sources"]["books"]["path"] == ["deep/books.txt", "folder"]  # the recipe itself is unchanged


@needs_server
def test_local_files_are_uploaded_to_a_store_of_objects(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job reads them through their URLs, in the same order, so its fingerprints are those of the client."""
    monkeypatch.setenv("RAYSE_SCRATCH", str(tmp_path / "scratch"))
    text = TEXT.replace("base: {model: mine}\n", "").replace("store: store", "store: s3://bucket/submitted")
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        Objects("s3://bucket/raw").put("c.txt", b"an object")
        (folder / "folder" / os.fsdecode(b"caf\xe9.txt")).write_text("a name that is not UTF-8")
        text = text.replace("[deep/books.txt, folder]", "[deep/books.txt, s3://bucket/raw/c.txt, folder]")
        loaded = load(folder, text)
        store = submit._shared_store(loaded, ELSEWHERE)
        tree = submit._with_uploads(loaded, store)
        paths = tree["sources"]["books"]["path"]
        assert [path.rpartition("/")[2] for path in paths] == ["books.txt", "c.txt", "a.txt", "b.md", "caf%E9.txt"]
        assert all(path.startswith("s3://bucket/") for path in paths)
        head = tmp_path / "head"
        head.mkdir()
        uploaded = load(head, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        expected = [step.fingerprint for step in plan(loaded, store)]
        assert [step.fingerprint for step in plan(uploaded, store)] == expected
        with pytest.raises(UserError, match=r"base.model: .*mine is a folder of this machine.* expected a model's hub"):
            submit._with_uploads(load(folder, TEXT, store="s3://bucket/submitted"), store)


@pytest.mark.parametrize("place", ["store", pytest.param("s3://bucket/pictures", marks=needs_server)])
def test_pictures_are_uploaded_with_their_captions(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder, by their names: the job reads the same rows, and has the same fingerprint."""
    odd = os.fsdecode(b"b\xe9")  # no UTF-8
    for name, color in {"a.png": "red", f"deep/{odd}.png": "blue", "meta/c.png": "green"}.items():
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "a.txt").write_text("a red square")
    (tmp_path / "pictures" / "deep" / f"{odd}.txt").write_text("a blue square")
    (tmp_path / "pictures" / "meta" / "metadata.csv").write_text("file_name,text\nc.png,a green square\n")
    text = f"store: {place}\nsources:\n  shots: {{kind: images, path: pictures}}\nstages:\n  images: {{}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.setenv("RAYSE_SCRATCH", str(tmp_path / "scratch"))
    with serving() if place.startswith("s3") else nullcontext() as server:
        for name, value in (server.environment if server else {}).items():
            monkeypatch.setenv(name, value)
        loaded = reader.load(tmp_path / "recipe.yaml", STAGES)
        store = Store(loaded.store).create()
        tree = submit._with_uploads(loaded, store)
        assert submit._with_uploads(loaded, store) == tree
        head = tmp_path / "head"
        head.mkdir()
        (head / "recipe.yaml").write_text(yaml.safe_dump(tree))
        uploaded = reader.load(head / "recipe.yaml", STAGES)
        assert plan(uploaded, store)[0].fingerprint == plan(loaded, store)[0].fingerprint
        sources = [recipe.entries[0].sources["shots"] for recipe in (loaded, uploaded)]
        here, there = ([row for part in source.parts() for row in source.read(part)] for source in sources)
    assert here == there
    assert [row.text for row in here if isinstance(row, Row)] == ["a red square", "a blue square", "a green square"]


@needs_server
def test_a_name_that_a_store_changes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS makes a slash of a backslash: the picture would be another one's, in silence."""
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b\\c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / name)
    text = "store: s3://bucket/names\nsources:\n  shots: {kind: images, path: pictures}\nstages:\n  images: {}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.setenv("RAYSE_SCRATCH", str(tmp_path / "scratch"))
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        loaded = reader.load(tmp_path / "recipe.yaml", STAGES)
        store = Store(loaded.store).create()
        with pytest.raises(
            UserError, match=r"pictures/b.c\.png: s3://bucket/names/sources/\w+ keeps it .* 1 of 2 files"
        ):
            submit._with_uploads(loaded, store)
        (tmp_path / "pictures" / "b\\c.png").rename(tmp_path / "pictures" / "c%E9.png")
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / os.fsdecode(b"c\xe9.png"))
        with pytest.raises(UserError, match=r"expected names that differ in UTF-8"):
            submit._with_uploads(loaded, store)


def test_the_uploaded_recipe_has_the_same_fingerprints(folder: Path, tmp_path: Path) -> None:
    store = Store(folder / "store").create()
    loaded = load(folder)
    tree = submit._with_uploads(loaded, store)
    head = tmp_path / "on the head"
    head.mkdir()
    uploaded = load(head, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    expected = [step.fingerprint for step in plan(loaded, store)]
    assert [step.fingerprint for step in plan(uploaded, store)] == expected


def test_a_file_is_uploaded_once_and_again_when_it_changes(folder: Path) -> None:
    store = Store(folder / "store").create()
    first = submit._with_uploads(load(folder), store)
    files = {p: p.stat().st_mtime_ns for p in (store.root / "sources").rglob("*") if p.is_file()}
    assert submit._with_uploads(load(folder), store) == first
    assert {p: p.stat().st_mtime_ns for p in (store.root / "sources").rglob("*") if p.is_file()} == files

    (folder / "deep" / "books.txt").write_text("another text")
    second = submit._with_uploads(load(folder), store)
    assert second["sources"]["books"]["path"][0] != first["sources"]["books"]["path"][0]
    assert second["sources"]["books"]["path"][1:] == first["sources"]["books"]["path"][1:]
    assert (
        Path(first["sources"]["books"]["path"][0]).read_text() == "the text of deep/books.txt"
    )  # another run may read it


def test_a_missing_source_is_reported_before_the_upload(folder: Path) -> None:
    (folder / "deep" / "books.txt").unlink()
    with pytest.raises(UserError, match=r"books.txt: no such file"):
        submit._with_uploads(load(folder), Store(folder / "store").create())


def test_a_store_on_a_local_disk_is_refused_for_a_remote_cluster(folder: Path) -> None:
    loaded = load(folder, store=str(folder / "new"))
    with pytest.raises(
        UserError, match=r"new: is on a local disk of this machine \(.+\), and the cluster at http://192"
    ):
        submit.submit_recipe(loaded, address=ELSEWHERE, flags={}, detach=True, as_json=False)
    assert not (folder / "new").exists()


def test_any_store_is_accepted_for_a_head_on_this_machine(folder: Path) -> None:
    loaded = load(folder, store=str(folder / "new"))
    assert submit._shared_store(loaded, "http://127.0.0.1:8265").root == folder / "new"
    assert (folder / "new" / "artifacts").is_dir()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "http://localhost:8265", "127.0.0.1:8265", "http://[::1]:8265"]
)
def test_loopback_is_this_machine(address: str) -> None:
    assert is_this_machine(address)


def test_addresses_of_its_interfaces_are_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends no packet: it only selects the local address
        except OSError:
            pytest.skip("no network at all")
        assert is_this_machine(f"http://{probe.getsockname()[0]}:8265")


@pytest.mark.parametrize("address", [ELSEWHERE, "http://no-such-host.invalid:8265"])
def test_other_addresses_are_not_this_machine(address: str) -> None:
    assert not is_this_machine(address)


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    assert file_system(Path("/proc/self")) == "proc"
    (tmp_path / "link").symlink_to("/proc/self")
    assert file_system(tmp_path / "link" / "not there yet") == "proc"
    script = """
import sys
from pathlib import Path
from pipelines.verbs.submit import file_system
print(*map(file_system, map(Path, sys.argv[1:])))
"""
    mount = str(tmp_path / "deep")
    Path(mount).mkdir()
    done = small_disk.run_python(Path(mount), "-c", script, mount, f"{mount}/x/y", str(tmp_path), kilobytes=64)
    first, second, third = done.stdout.split()
    assert first == second == "tmpfs"
    assert third == file_system(tmp_path)


def test_the_users_filters_are_uploaded_with_their_names(folder: Path) -> None:
    (folder / "rules.py").write_text("def good(text):\n    return True\n")
    (folder / "recipe.yaml").write_text(
        "sources:\n  books: {kind: text, path: deep/books.txt, filters: {custom: [rules.py:good]}}\n"
        "stages:\n  corpus: {filters: {custom: [rules.py:good]}}\n"
    )
    store = Store(folder / "store").create()
    tree = submit._with_uploads(reader.load(folder / "recipe.yaml", STAGES), store)
    for rules in (tree["sources"]["books"], tree["stages"]["corpus"]):
        (where,) = rules["filters"]["custom"]
        file, name = where.split(".py:")
        assert name == "good" and file.startswith(str(store.root))
        assert Path(f"{file}.py").read_bytes() == (folder / "rules.py").read_bytes()


def test_the_users_reward_is_uploaded_and_the_base_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.py").write_text("def short(batch):\n    return [-len(row['reply']) for row in batch]\n")
    (folder / "recipe.yaml").write_text(
        "base: {model: mine}\nsources:\n  talks: {kind: jsonl, path: talks.jsonl, rows: conversations}\n"
        "stages:\n  conversations: {}\n  ppo: {rewards: {function: 1.0}, function: rewards.py:short}\n"
    )
    (folder / "talks.jsonl").write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    monkeypatch.chdir("/")  # a recipe's paths start at its folder
    loaded = reader.load(folder / "recipe.yaml", STAGES)
    store = Store(folder / "store").create()
    tree = submit._with_uploads(loaded, store)
    file, name = tree["stages"]["ppo"]["function"].split(".py:")
    assert name == "short" and file.startswith(str(store.root))
    assert Path(f"{file}.py").read_bytes() == (folder / "rewards.py").read_bytes()
    names = sorted(path.name for path in Path(tree["base"]["model"]).iterdir())
    assert names == ["config.json", "model.safetensors"]
    (folder / "uploaded.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    uploaded = reader.load(folder / "uploaded.yaml", STAGES)
    assert [s.fingerprint for s in plan(uploaded, store)] == [s.fingerprint for s in plan(loaded, store)]
    (folder / "rewards.py").unlink()
    with pytest.raises(UserError, match=r"rewards\.py: no such file or directory; expected .* function short"):
        submit._with_uploads(loaded, store)


def test_a_base_in_one_file_is_uploaded_as_that_file(folder: Path) -> None:
    (folder / "mine.gguf").write_bytes(b"GGUF and so on")
    loaded = load(folder, TEXT.replace("model: mine", "model: mine.gguf"))
    store = Store(folder / "store").create()
    tree = submit._with_uploads(loaded, store)
    copy = Path(tree["base"]["model"])
    assert (copy.name, copy.read_bytes()) == ("mine.gguf", b"GGUF and so on")
    uploaded = load(folder, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    assert plan(uploaded, store)[0].fingerprint == plan(loaded, store)[0].fingerprint


def test_sources_that_options_name_are_uploaded_and_decide_the_fingerprint(folder: Path) -> None:
    text = (
        "store: store\nsources:\n  books: {kind: text, path: deep/books.txt}\n  poems: {kind: text, path: folder}\n"
        "  maths: {kind: jsonl, path: maths.jsonl, rows: prompts}\n"
        "stages:\n  corpus: {sources: [books], decontaminate: {sets: [maths, poems]}}\n"
    )
    (folder / "maths.jsonl").write_text('{"question": "Why?"}\n')
    (folder / "recipe.yaml").write_text(text)
    loaded = reader.load(folder / "recipe.yaml", STAGES)
    (entry,) = loaded.entries
    assert (list(entry.sources), list(entry.references)) == (["books"], ["maths", "poems"])
    store = Store(folder / "store").create()
    tree = submit._with_uploads(loaded, store)
    assert all(str(store.root) in path for name in ("maths", "poems") for path in tree["sources"][name]["path"])
    before = plan(loaded, store)[0].fingerprint
    (folder / "maths.jsonl").write_text('{"question": "Why not?"}\n')
    assert plan(loaded, store)[0].fingerprint != before
    (folder / "recipe.yaml").write_text(text.replace("[maths, poems]", "[mahts]"))
    with pytest.raises(UserError, match=r"recipe.yaml:7: corpus.decontaminate.sets: no source 'mahts'. Did you mean m"):
        reader.load(folder / "recipe.yaml", STAGES)
    (folder / "recipe.yaml").write_text(text.replace("{sets: [maths, poems]}", "{held_out_prompts: true}"))
    with pytest.raises(UserError, match=r"corpus: needs a conversations, .* put one of these before it: conversations"):
        reader.load(folder / "recipe.yaml", STAGES)
    (folder / "recipe.yaml").write_text(text.replace("decontaminate: {sets: [maths, poems]}", "harm: {unsafe: drop}"))
    with pytest.raises(UserError, match=r"corpus: needs a guard, .* put one of these before it: guard"):
        reader.load(folder / "recipe.yaml", STAGES)
