"""A run that was stalled while it published deletes nothing that another has published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from pipelines.store.artifacts import Artifact, Draft, Store
from tests.store.test_artifacts import FILES, FINGERPRINT, files_of, filled_draft, manifest, take_over


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


@pytest.mark.parametrize("stalled_at", ["publish", "rename of what is in its place", "rename"])
@pytest.mark.parametrize("commits", [True, False])
def test_a_holder_that_is_stalled_before_it_publishes_deletes_no_artifact(
    store: Store, monkeypatch: pytest.MonkeyPatch, stalled_at: str, commits: bool
) -> None:
    """The second run takes the draft over and, perhaps, commits, between the last check of the lease and the rename."""
    path = store.root / "artifacts" / "corpus" / FINGERPRINT
    if stalled_at == "rename of what is in its place":
        path.mkdir(parents=True)
        (path / "half").write_text("left by an unknown process")
    old, made = filled_draft(store), list[Draft | Artifact]()
    publish, rename = Store._publish, Path.rename

    def stall() -> None:
        if not made:
            made.append(take_over(old, Store(store.root), monkeypatch))
            if commits:
                assert isinstance(made[0], Draft)
                made[0] = Store(store.root).commit(made[0], manifest(facts={"documents/kept": 4}))

    def publish_late(*arguments: Any) -> Any:
        if stalled_at == "publish":
            stall()
        return publish(*arguments)

    def rename_late(self: Path, target: Path) -> Path:
        if self == (old.out if stalled_at == "rename" else path):
            monkeypatch.setattr(Path, "rename", rename)
            stall()
        return rename(self, target)

    monkeypatch.setattr(Store, "_publish", publish_late)
    monkeypatch.setattr(Path, "rename", rename_late)
    with pytest.raises(ClusterError, match="another took it over"):
        store.commit(old, manifest())
    (new,) = made
    if isinstance(new, Draft):  # it goes on
        new = store.commit(new, manifest(facts={"documents/kept": 4}))
    found = store.find("corpus", FINGERPRINT, warn=pytest.fail)
    assert found is not None and found.facts == {"documents/kept": 4}
    assert files_of(found) == FILES
