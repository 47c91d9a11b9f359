"""The documentation of installed packages as a source: which documents, how many bytes, always the same."""

from __future__ import annotations

import json
import os
import pickle
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pipelines.blocks import pack, unpack
from pipelines.data.sources import docstrings
from pipelines.data.sources.docstrings import Docstrings, divide_bytes, is_documentation, libraries, library_named
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError
from tests.runs import ROOT

SOME = ["click", "rich", "PyYAML", "python"]


def read(source: Docstrings, part: Part) -> list[Row]:
    return [row for row in source.read(part) if isinstance(row, Row)]


def test_documents_are_real_documentation_in_groups_by_distribution() -> None:
    source = Docstrings(packages=SOME)
    parts = source.parts()
    assert [part.group for part in parts] == ["click", "python", "pyyaml", "rich"]
    assert [part.index for part in parts] == [0, 1, 2, 3]
    click = [row.text for row in read(source, parts[0])]
    assert len(click) > 100
    assert any("command line" in text for text in click)
    assert not any(text.startswith(('"""', "Copyright")) for text in click)


def test_text_stays_within_the_limit_and_nearly_reaches_it() -> None:
    source = Docstrings(packages=SOME, limit_bytes=200_000)
    sizes = {part.group: sum(len(row.text.encode()) for row in read(source, part)) for part in source.parts()}
    assert 0.7 * 200_000 < sum(sizes.values()) <= 200_000
    assert len([size for size in sizes.values() if size > 1_000]) == 4  # a mix, not the first that come
    assert {part.group: part.bytes >= sizes[part.group] for part in source.parts()} == dict.fromkeys(sizes, True)


def test_a_small_limit_reads_fewer_packages_not_less_of_each() -> None:
    source = Docstrings(limit_bytes=300_000)
    parts = source.parts()
    assert 15 <= len(parts) < 60
    total = sum(len(row.text.encode()) for part in parts for row in read(source, part))
    assert 0.7 * 300_000 < total <= 300_000


def test_reading_again_or_in_another_process_gives_the_same_rows() -> None:
    source = Docstrings(packages=["click"], limit_bytes=50_000)
    parts = source.parts()
    there = pickle.loads(pickle.dumps(source))
    assert there.parts() == parts
    again = unpack(pack(parts))
    assert [read(source, part) for part in parts] == [read(there, part) for part in again]
    assert there.identity() == source.identity()


def test_identity_has_versions_and_record_hashes() -> None:
    identity = Docstrings(packages=["click"]).identity()
    version, record = identity["distributions"]["click"]
    assert version == library_named("click").version
    assert len(record) == 32
    assert identity != Docstrings(packages=["rich"]).identity()
    assert identity != Docstrings(packages=["click"], limit_bytes=5).identity()


def test_rayse_itself_is_not_read() -> None:
    assert "rayse" not in libraries()
    assert len(libraries()) > 20


def test_error_names_an_unknown_package() -> None:
    with pytest.raises(UserError, match="no-such-thing"):
        Docstrings(packages=["click", "no.such_thing"]).parts()


def test_tests_copies_licences_and_generated_code_are_left_out() -> None:
    kept = ["torch/nn/functional.py", "trl/README.md", "numpy/ma/README.rst", "fontTools/readme.txt", "a/testament.py"]
    left = ["pip/_vendor/rich/text.py", "numpy/tests/test_x.py", "x/test_y.py", "ray/thirdparty_files/psutil.py",
            "a_pb2.py", "LICENSE.md", "x/licenses/LICENSE.txt", "requirements.txt", "x-1.0.dist-info/README.md",
            "../../bin/tool.py", "x/data.txt", "__editable___x_finder.py", "basic/templates/card.md"]  # fmt: skip
    assert [path for path in kept if not is_documentation(path)] == []
    assert [path for path in left if is_documentation(path)] == []


def test_half_a_character_in_a_docstring_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "halves-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: halves\nVersion: 1\n\n")
    (info / "RECORD").write_text("halves.py,sha256=x,99\n")
    (tmp_path / "halves.py").write_text('"""One."""\n\n\ndef half():\n    """Half: \\ud83d."""\n')
    monkeypatch.setattr(docstrings, "site_folders", lambda: [str(tmp_path)])
    part = Part(index=0, where="halves", group="halves", args={"name": "halves", "limit_bytes": None})
    first, second = Docstrings().read(part)
    assert isinstance(first, Row) and first.text == "One."
    assert isinstance(second, BadRow) and second.problem.startswith("halves.py: half of a surrogate pair")


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 10_000])
def test_quotas_never_exceed_sizes_or_limit(limit: int) -> None:
    sizes = [5, 0, 700, 33, 33, 1]
    quotas = divide_bytes(limit, sizes)
    assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
    assert sum(quotas) <= limit
    assert sum(quotas) == min(limit, sum(sizes)) or limit - sum(quotas) < len(sizes)


def test_copies_on_the_path_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray worker has more on its path than the driver: both must read the same."""
    before = library_named("click")
    copy = tmp_path / "click-0.dist-info"
    copy.mkdir()
    (copy / "METADATA").write_text("Name: click\nVersion: 0\n\nA copy.")
    (copy / "RECORD").write_text("click/core.py,sha256=x,10\n")
    monkeypatch.syspath_prepend(tmp_path)
    libraries.cache_clear()
    assert library_named("click") == before
    assert libraries()["click"] == before


def test_system_site_packages_are_read_where_the_environment_allows_them(tmp_path: Path) -> None:
    """`python -m venv --system-site-packages`: packages of its base interpreter count as installed."""
    venv.create(tmp_path / "open", system_site_packages=True, symlinks=True)
    venv.create(tmp_path / "closed", symlinks=True)
    below = {path for path in map(Path, site.getsitepackages([sys.base_prefix])) if path.is_dir()}
    seen = {}
    code = "import json; from pipelines.data.sources.docstrings import site_folders; print(json.dumps(site_folders()))"
    for name in ("open", "closed"):
        process = subprocess.run(
            [tmp_path / name / "bin" / "python", "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()])},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen[name] = set(map(Path, json.loads(process.stdout)))
    assert below <= seen["open"] and not below & seen["closed"]
