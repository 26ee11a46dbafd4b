"""A real study in seconds: 24 patients with noisy heads on a small grid, and small networks trained for one epoch.

A pytest plugin (tests/conftest.py loads it). The fixtures are made once per session and shared: tests that write into
the study or its work folder take a copy (`TinyStudy.copy`) or a study of their own (`make_study`).
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from rlvo.config.grid import Grid
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from rlvo.study.folder import StudyFolder
from rlvo.study.trials import EndedTrials, member_weights, read_ended_trials

if TYPE_CHECKING:  # imported where they are used: every run of pytest loads this module, and torch takes seconds
    from rlvo.cohort.encoding import TabularEncoder
    from rlvo.ensemble.spec import EnsembleSpec, MemberSpec
    from rlvo.inference.description import Variant
    from rlvo.inference.predictor import EnsemblePredictor
    from rlvo.study.inputs import StudyInputs

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
    """A trained study whose ensembles are not registered yet."""

    workdir: Workdir
    cohort: Path
    inputs: StudyInputs
    config: StudyConfig = STUDY

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.workdir.study(STUDY.name))

    @property
    def raw(self) -> pd.DataFrame:
        """The cohort table as pandas reads it: integers, floats and text."""
        return pd.read_csv(self.cohort)

    @property
    def encoders(self) -> dict[int, TabularEncoder]:
        return {fold: self.inputs.encoder(fold) for fold in range(STUDY.folds.folds)}

    def weights(self, variant: Variant, member: MemberSpec) -> Path:
        """The member's weights, as `write_model_folder` asks for them."""
        return member_weights(self.folder, member)

    def copy(self, workdir: Path) -> TinyStudy:
        """The same study and cohort with a work folder that may be altered."""
        return dataclasses.replace(self, workdir=Workdir.at(shutil.copytree(self.workdir.path, workdir)))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    return make_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trials(study: TinyStudy) -> EndedTrials:
    return read_ended_trials(study.folder)


@pytest.fixture(scope="session")
def specs(trials: EndedTrials) -> dict[str, EnsembleSpec]:
    from rlvo.ensemble.build import study_ensembles

    return study_ensembles(trials.records, trials.predictions, STUDY.ensemble)


@pytest.fixture(scope="session")
def model_folder(
    study: TinyStudy, specs: dict[str, EnsembleSpec], trials: EndedTrials, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The study's own ensemble with its fallbacks, as a model folder."""
    from rlvo.ensemble.build import fit_fallbacks
    from rlvo.imaging.target import Target
    from rlvo.inference.description import describe, write_model_folder
    from rlvo.inference.training_cohort import summarise

    development = list(study.inputs.split.development)
    description = describe(
        specs["ensemble"],
        study.encoders,
        Target(grid=GRID),
        fallbacks=fit_fallbacks(specs["ensemble"], trials.predictions, STUDY.ensemble),
        cohort=summarise(study.inputs.table.loc[development], study.inputs.label[development], PAPER_PREDICTORS),
    )
    folder = tmp_path_factory.mktemp("ensemble") / "model"
    write_model_folder(folder, description, study.weights)
    return folder


@pytest.fixture(scope="session")
def predictor(model_folder: Path) -> EnsemblePredictor:
    from rlvo.inference.predictor import EnsemblePredictor

    return EnsemblePredictor.load(model_folder)


@pytest.fixture(scope="session")
def package(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder as an MLflow model, as it is registered."""
    from rlvo.registry.register import package_model

    package = tmp_path_factory.mktemp("packaged") / "package"
    package_model(model_folder, package, "# A card\n")
    return package


def make_study(root: Path) -> TinyStudy:
    """Write the cohort to `root/planted-hospital`, prepare it, and train every trial of STUDY in `root/work`."""
    import torch

    from rlvo.study.inputs import open_study
    from rlvo.training.fit import fit

    torch.set_num_threads(1)
    cohort = write_cohort(root / "planted-hospital")
    workdir = Workdir.at(root / "work")
    inputs = open_study(STUDY, cohort, workdir, progress=no_progress, workers=1)
    study = TinyStudy(workdir, cohort, inputs)
    for values in STUDY.space.combinations():
        configuration = STUDY.configuration(values)
        for fold in range(STUDY.folds.folds):
            trial, identity = study.folder.trial(configuration.key, fold), inputs.identity(configuration.key, fold)
            fit(configuration, inputs.fold_data(fold), trial, identity, seed=fold, device="cpu", threads=1)
    return study


def write_cohort(folder: Path) -> Path:
    """Write the volumes and the table of 24 patients whose ids begin with PLANTED; return the table's path."""
    import nibabel

    from support.heads import head_on

    rng, head = np.random.default_rng(0), head_on(GRID)
    rows = []
    for i in range(24):
        patient, rlvo = f"PLANTED-{i:03d}", int(i % 3 == 0)
        (folder / patient).mkdir(parents=True)
        mask = np.zeros(GRID.shape, np.uint8)
        mask[7:9, 7:9, 4:12] = 1
        for name, contrast, sd in (("ncct", 0, 4), ("cta", 200, 10)):
            volume = (head + contrast * mask + rng.normal(3 * rlvo, sd, GRID.shape)).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(volume, GRID.affine), folder / patient / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, GRID.affine), folder / patient / "vessels.nii.gz")
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
