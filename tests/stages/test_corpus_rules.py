"""The corpus stage with rules beside its sources, on a real Ray: each source by its own, counted in the facts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.data.sources import SOURCES
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import STAGE
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.store.artifacts import Draft
from tests.stages.single import ProgressNotes

PROSE = "The moon shows us the same face, for it turns once about itself while it goes around the earth. Number {}."
RULES = "def no_nines(text):\n    return '9' not in text, 'nines'\n\ndef broken(text):\n    return {}[text]\n"


def run(folder: Path, session: Session, name: str, *, custom: str) -> tuple[Facts, Path]:
    """The facts and the files of a corpus of two sources, of which `code` has rules of its own."""
    sources = {
        "prose": {"path": "prose.jsonl"},
        "code": {
            "path": "code.jsonl",
            "filters": {"length": {"min_words": 2}, "custom": [f"{folder}/rules.py:{custom}"]},
            "privacy": {"email": "mask", "phone": "drop"},
        },
    }
    draft = Draft(folder / name, "fingerprint")
    work = Work(
        name="corpus",
        options=CorpusOptions(held_out=0, near_duplicates=None),
        cluster=CorpusCluster(tasks=1),
        seed=7,
        inputs={},
        sources={key: SOURCES["jsonl"].model_validate(value).at(folder) for key, value in sources.items()},
        draft=draft,
        progress=ProgressNotes(),
        session=session,
    )
    return STAGE.run(work), draft.out


def test_each_source_is_cleaned_by_its_own_rules(tmp_path: Path, session: Session) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    prose = [PROSE.format(1), "Short text.", f"{PROSE.format(9)} Write to ann@mail.org."]
    code = ["x = y(1)", "x = y(9)", "mail ann@mail.org", "phone 13812345678", "x"]
    for name, texts in (("prose", prose), ("code", code)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    facts, out = run(tmp_path, session, "right", custom="no_nines")
    with pytest.raises(UserError, match=r"code.jsonl:1: filters.custom: .*rules.py:broken raised KeyError"):
        run(tmp_path, session, "wrong", custom="broken")
    texts = [row["text"] for file in sorted((out / "train").glob("*")) for row in pq.read_table(file).to_pylist()]
    assert sorted(texts) == sorted([prose[0], prose[2], "x = y(1)", "mail [email]"])
    assert facts["documents/dropped_too_short"] == 2
    assert facts["documents/dropped_nines"] == facts["documents/dropped_personal_data"] == 1
    assert (facts["privacy/email"], facts["privacy/phone"]) == (1, 1)
    dropped = sum(int(number) for name, number in facts.items() if name.startswith("documents/dropped_"))
    assert facts["documents/read"] == int(facts["documents/kept"]) + dropped
