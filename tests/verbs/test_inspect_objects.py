"""`rayse inspect NAME` of an artifact in an object store reads what it shows, not the whole artifact."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus.documents import DOCUMENTS, REJECTED
from pipelines.store.artifacts import Store
from pipelines.verbs.inspect_rows import show_rows
from tests.object_server import Disturbance, Machines, disturbed, needs_server, serving
from tests.store.test_artifacts import FINGERPRINT, manifest

pytestmark = needs_server


def add_corpus(store: Store) -> int:
    """Adds a corpus with two parts of 2 MB, each of four groups of rows. Returns its size in bytes."""
    texts = random.Random(7)
    draft = store.draft(FINGERPRINT)
    for split, parts in (("train", 2), ("held_out", 1)):
        (draft.out / split).mkdir()
        for part in range(parts):
            rows = [{"id": f"web/{split}/{part}/{n}", "source": "web", "group": "a", "meta": [],
                     "language": "zh" if n % 50 == 49 else "en", "text": texts.randbytes(5000).hex()}
                    for n in range(200)]  # fmt: skip
            table = pa.Table.from_pylist(rows, DOCUMENTS)
            pq.write_table(table, draft.out / split / f"part-{part:05}.parquet", row_group_size=50)
    dropped = {"source": "web", "where": "a.jsonl", "row": 1, "problem": "short", "reason": "too_short", "raw": "x"}
    pq.write_table(pa.Table.from_pylist([dropped], REJECTED), draft.out / "rejected.parquet")
    artifact = store.commit(draft, manifest())
    return sum(file.bytes for file in artifact.manifest.files.values())


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Any:
    with serving() as server, disturbed(server) as proxy:
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        yield proxy


def test_rows_of_a_corpus_in_objects_are_shown_without_bringing_it(
    proxy: Disturbance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = Machines("s3://bucket/store", tmp_path, monkeypatch)
    size = add_corpus(machines.store("one"))
    add_corpus(local := Store(tmp_path / "local").create())
    for where in (), ["language=zh", "split=train"], ["reason=too_short"]:
        store = machines.store("two")
        proxy.sent_bytes = 0
        for read in (store, local):
            show_rows(read, FINGERPRINT, where=where, limit=1, card=False, as_json=True)
        remote_text, local_text = capsys.readouterr().out.split("}\n{")
        assert remote_text.strip("{}\n") == local_text.strip("{}\n")
        assert 0 < proxy.sent_bytes < 0.15 * size  # at most one of 12 groups of rows, and footers
        assert not list((tmp_path / "two").rglob("*.parquet"))
