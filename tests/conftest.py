"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

    from cluster.session import Session
    from pipelines.evaluator import Evaluator
    from tests.tiny_models import Tiny

# Set before Ray is imported: tests send no usage statistics.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# By default Python looks for garbage, over and over, among the million objects that torch and transformers import.
gc.set_threshold(20_000, 20, 50)

# A shell starts background jobs with SIGINT ignored, and processes that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent

# The files that take longest, first: two processes that end at about the same time share the work best. Before them one
# that forks its process, in which no test has started Ray by then: a child would inherit Ray's sockets and locks.
LONG_FILES = (
    "tests/store/test_artifacts.py",
    "tests/serve/trial/test_trial.py",
    "tests/stages/test_quantise.py",
    "tests/stages/test_imported.py",
    "tests/test_end_to_end.py",
    "tests/test_evaluator.py",
    "tests/stages/test_evaluate.py",
    "tests/stages/test_preferences.py",
    "tests/stages/test_model_writer.py",
    "tests/inference/test_sampler.py",
    "tests/stages/test_ppo.py",
    "tests/cluster/test_workers.py",
    "tests/sweep/test_sweep.py",
    "tests/serve/hosting/test_server.py",
    "tests/stages/test_sft.py",
    "tests/inference/test_families.py",
    "tests/learning/test_family_training.py",
    "tests/stages/test_pretrain.py",
    "tests/run/test_broken_off.py",
    "tests/cluster/test_jobs.py",
    "tests/cluster/test_submitted_recipe.py",
    "tests/cluster/test_session.py",
    "tests/store/test_object_run.py",
    "tests/store/test_object_store.py",
    "tests/learning/test_engine_bfloat16.py",
    "tests/stages/test_guard.py",
    "tests/stages/test_conversations.py",
    "tests/cluster/test_gang.py",
    "tests/stages/test_dpo.py",
    "tests/stages/test_reward_model.py",
    "tests/stages/test_tokens.py",
    "tests/stages/test_corpus.py",
    "tests/stages/test_corpus_phases.py",
    "tests/learning/test_loop.py",
    "tests/run/test_walk.py",
    "tests/learning/test_adapters.py",
    "tests/cluster/test_termination.py",
    "tests/learning/test_engine.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves LONG_FILES to the front; all else stays in order."""
    ranks = {str(ROOT / name): rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


# Files, or folders, that share what is slow to start: one process runs all of a line, in the order of LONG_FILES.
GROUPS = (
    ("tests/serve/gateway/", "tests/serve/hosting/", "tests/serve/verbs/", "tests/serve/test_watching.py"),  # `served`
    ("tests/cluster/test_jobs.py", "tests/cluster/test_session.py", "tests/cluster/test_submitted_recipe.py"),  # `head`
    ("tests/test_evaluator.py", "tests/inference/test_sampler.py", "tests/stages/test_evaluate.py",
     "tests/stages/test_preferences.py", "tests/stages/test_model_writer.py"),  # `evaluator`
    ("tests/serve/trial/", "tests/stages/test_quantise.py", "tests/stages/test_imported.py"),  # import llmcompressor
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """As `--dist loadfile`: the tests of a file run in one process; so do those of a group."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            of_file = super()._split_scope(nodeid)
            return next((group[0] for group in GROUPS if nodeid.startswith(group)), of_file)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real corpora, which are not part of the repository: the folder shared/data beside it, if it exists."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data; put it into shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Tiny models with random weights and the texts of their tokenizer."""
    from tests import tiny_models

    return tiny_models.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def session() -> Iterator[Session]:
    """A local Ray with 4 logical CPUs, for all tests of this process."""
    from cluster.session import Session

    with Session(cpus=4, on_message=str) as session:
        yield session


@pytest.fixture(scope="session")
def evaluator(session: Session) -> Iterator[Evaluator]:
    """The vLLM engine that all tests use; each test loads its model."""
    from pipelines.evaluator import Evaluator

    evaluator = Evaluator(session)
    yield evaluator
    evaluator.close()
