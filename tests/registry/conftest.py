"""A real study in seconds: 24 patients with random volumes on a small grid, small networks trained for an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from rlvo.config.grid import Grid
from rlvo.config.study import PAPER_PREDICTORS, StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import fallbacks, study_ensembles
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.trials import Trials, read_trials, trial_weights
from rlvo.imaging.target import Target
from rlvo.registry.cohort_summary import summarise
from rlvo.registry.folder import describe, write_model_folder
from rlvo.registry.inference import EnsemblePredictor
from rlvo.search.inputs import StudyInputs
from rlvo.search.study import open_study
from rlvo.training.fit import fit

GRID = Grid(shape=(16, 16, 16), spacing=(8, 8, 8), origin=(-60, -78, -52))
BINARIES = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "ivt", "unwitnessed_onset")
STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "grid": GRID.model_dump(),
        "model": {"backbone": "resnet18", "resnet": {"widths": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "stem_kernel": 3}},
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        "space": {"enumerate": {"model.modality": ["NCCT", "CTA", "BOTH"], "model.fusion": ["none", "daft"]}},
        "folds": {"folds": 2, "test_fraction": 0.25},
    }
)


@dataclass(frozen=True)
class TinyStudy:
    """A trained study and its ensembles, not registered yet."""

    workdir: Workdir
    cohort: Path
    inputs: StudyInputs
    config: StudyConfig = STUDY

    @property
    def folder(self) -> Path:
        return self.workdir.study(STUDY.name)

    @property
    def raw(self) -> pd.DataFrame:
        """The cohort table as pandas reads it: integers, floats and text."""
        return pd.read_csv(self.cohort)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    return make_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trials(study: TinyStudy) -> Trials:
    return read_trials(study.folder)


@pytest.fixture(scope="session")
def specs(trials: Trials) -> dict[str, EnsembleSpec]:
    return study_ensembles(trials.records, trials.predictions, STUDY.ensemble)


@pytest.fixture(scope="session")
def model_folder(study: TinyStudy, specs: dict[str, EnsembleSpec], trials: Trials) -> Path:
    encoders = {fold: study.inputs.encoder(fold) for fold in range(2)}
    folder = study.folder / "ensemble" / "model"
    development = list(study.inputs.split.development)
    description = describe(
        specs["ensemble"],
        encoders,
        Target(grid=GRID),
        fallbacks=fallbacks(specs["ensemble"], trials.predictions),
        cohort=summarise(study.inputs.table.loc[development], study.inputs.label[development], PAPER_PREDICTORS),
    )
    write_model_folder(folder, description, lambda _, member: trial_weights(study.folder, member))
    return folder


@pytest.fixture(scope="session")
def predictor(model_folder: Path) -> EnsemblePredictor:
    return EnsemblePredictor.load(model_folder)


def make_study(root: Path) -> TinyStudy:
    """Write the cohort below `root/planted-hospital`, prepare it, and train every trial of STUDY."""
    torch.set_num_threads(1)
    cohort = write_cohort(root / "planted-hospital")
    workdir = Workdir.at(root / "work")
    inputs = open_study(STUDY, cohort, workdir, progress=silent, workers=1)
    for values in STUDY.space.combinations():
        configuration = STUDY.configuration(values)
        for fold in range(STUDY.folds.folds):
            trial = workdir.study(STUDY.name) / "trials" / configuration.key / f"fold-{fold}"
            identity = inputs.identity(configuration, fold)
            fit(configuration, inputs.fold_data(fold), trial, identity, seed=fold, device="cpu", threads=1)
    return TinyStudy(workdir, cohort, inputs)


def write_cohort(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        patient, rlvo = f"PLANTED-{i:03d}", int(i % 3 == 0)
        (folder / patient).mkdir(parents=True)
        for name, brain, sd in (("ncct", 35, 4), ("cta", 60, 30)):
            volume = np.clip(rng.normal(brain + 3 * rlvo, sd, GRID.shape), -50, 500).astype(np.float32)
            nib.save(nib.Nifti1Image(volume, GRID.affine), folder / patient / f"{name}.nii.gz")
        mask = np.zeros(GRID.shape, np.uint8)
        mask[7:9, 7:9, 4:12] = 1
        nib.save(nib.Nifti1Image(mask, GRID.affine), folder / patient / "vessels.nii.gz")
        tmax6 = float(rng.uniform(40, 200))
        row: dict[str, object] = {"patient_id": patient}
        row |= {name: f"{patient}/{name}.nii.gz" for name in ("ncct", "cta", "vessels")}
        row |= {name: int(rng.random() < 0.4) for name in BINARIES}
        row |= {"age": int(rng.integers(40, 90)), "nihss": int(rng.integers(2, 28)), "sex": rng.choice(["F", "M"])}
        row |= {"occlusion_side": rng.choice(["left", "right"]), "occlusion_site": rng.choice(["TICA", "M1", "M2"])}
        row |= {"cbf_lt30_ml": round(rng.uniform(0, 60), 1), "tmax_gt4_ml": round(tmax6 * 1.7, 1)}
        row |= {"tmax_gt6_ml": round(tmax6, 1), "tmax_gt10_ml": round(tmax6 * 0.4, 1), "rlvo": rlvo}
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@contextmanager
def silent(description: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None
