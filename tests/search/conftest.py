"""A small real cohort on disk: 24 patients, 16×16×16 voxels, a bright block where the label is 1."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from rlvo.config.loading import parse_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.search.study import StudyInputs, open_study

sys.path.append(str(Path(__file__).parent))  # for `planted`, which is no test

GRID = {"shape": (16, 16, 16), "spacing": (8, 8, 8), "origin": (-60, -76, -50)}
MODEL = {
    "backbone": "resnet18",
    "modality": "NCCT",
    "fusion": "none",
    "resnet": {"widths": (4, 4, 8, 8), "stem_kernel": 3},
}
TRAINING = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "optimizer": "adamw"}
PREDICTORS = ("age", "sex", "nihss", "occlusion_side")


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a journal waits for the disk at every line."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def cohort_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    random = np.random.default_rng(0)
    affine = np.diag([*GRID["spacing"], 1.0])
    affine[:3, 3] = GRID["origin"]
    label = np.arange(24) % 2
    table = pd.DataFrame(
        {
            "patient_id": [f"planted-{i:03}" for i in range(24)],
            "ncct": [f"ncct-{i}.nii.gz" for i in range(24)],
            "cta": [f"cta-{i}.nii.gz" for i in range(24)],
            "age": random.integers(40, 90, 24),
            "sex": random.choice(["F", "M"], 24),
            "nihss": random.integers(0, 30, 24) + 4 * label,
            "occlusion_side": random.choice(["left", "right"], 24),
            "rlvo": label,
        }
    )
    for i in range(24):
        volume = random.normal(40, 5, GRID["shape"])
        volume[6:10, 6:10, 6:10] += 20 * label[i]
        for name in ("ncct", "cta"):
            nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), folder / table[name][i])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture
def make_study() -> Callable[..., StudyConfig]:
    """A study of two folds on the small cohort; keyword arguments replace or add sections."""

    def make(name: str = "small", **sections: Any) -> StudyConfig:
        content = {
            "name": name,
            "grid": GRID,
            "cohort": {"predictors": PREDICTORS},
            "model": MODEL,
            "training": TRAINING,
            "folds": {"folds": 2, "test_fraction": 0.25},
        }
        return parse_study(content | sections)

    return make


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def workdir(tmp_path: Path, store: Path) -> Workdir:
    """A work folder of the test's own; the prepared volumes are shared."""
    (tmp_path / "store").symlink_to(store)
    return Workdir.at(tmp_path)


@pytest.fixture
def opened(cohort_path: Path, workdir: Workdir) -> Callable[..., StudyInputs]:
    """Opens a study in the test's work folder; another cohort table may be given."""

    @contextlib.contextmanager
    def no_progress(description: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None

    def open_it(study: StudyConfig, table: Path = cohort_path) -> StudyInputs:
        return open_study(study, table, workdir, progress=no_progress, workers=1)

    return open_it
