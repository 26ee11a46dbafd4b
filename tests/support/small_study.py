"""Studies to search on a small real cohort: the 24 patients of `tiny_study`, few predictors, one network.

A pytest plugin (tests/conftest.py loads it).
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rlvo.config.loading import parse_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from support.tiny_study import STUDY, write_cohort

if TYPE_CHECKING:  # imported where it is used: every run of pytest loads this module
    from rlvo.study.inputs import StudyInputs

MakeStudy = Callable[..., StudyConfig]
OpenStudy = Callable[..., "StudyInputs"]


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if possible: a journal waits for the disk at every line."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort's table."""
    return write_cohort(tmp_path_factory.mktemp("small") / "planted-hospital")


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared volumes, shared by all tests."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def make_small() -> MakeStudy:
    """Makes studies of two folds; keyword arguments replace or add sections."""

    def make(name: str = "small", **sections: Any) -> StudyConfig:
        content = STUDY.model_dump(mode="json", include={"grid", "model", "training", "folds"})
        content["model"] |= {"modality": "NCCT", "fusion": "none"}
        predictors = ("age", "sex", "nihss", "occlusion_side")
        return parse_study(content | {"name": name, "cohort": {"predictors": predictors}} | sections)

    return make


@pytest.fixture
def small_work(tmp_path: Path, small_store: Path) -> Workdir:
    """A work folder of the test's own; the prepared volumes are shared."""
    (tmp_path / "store").symlink_to(small_store)
    return Workdir.at(tmp_path)


@pytest.fixture
def open_small(small_cohort: Path, small_work: Workdir) -> OpenStudy:
    """Opens a study in the test's work folder; another cohort table may be given."""
    from rlvo.study.inputs import open_study

    def open_it(config: StudyConfig, table: Path = small_cohort) -> "StudyInputs":
        return open_study(config, table, small_work, progress=no_progress, workers=1)

    return open_it
