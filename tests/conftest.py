"""What all tests share."""

import os
from pathlib import Path

import pytest

# Set before anything imports Ray: tests tell nobody how they used it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real corpora, which the project does not ship: a folder shared/data beside the repository, where there is one."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: put it into shared/data beside the repository")
    return folder
