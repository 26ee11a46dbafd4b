"""How cost grows with voxels, patients, trials and members: exponents, the slopes of log cost over log size."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch

from benchmarks.measure import exponent, seconds, show
from benchmarks.training import Ours, configure, random_fold
from rlvo.config.grid import Grid, over_field_of_view
from rlvo.config.model import Configuration
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import study_ensembles
from rlvo.imaging.alignment.template import load_atlas
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.resampling import resample_to_grid
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.models.streamlining import streamline
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.records import CompletionRecord, TrialIdentity, member_key

NETWORK = "demo's DenseNet"
SHAPES = ((20, 24, 20), (32, 38, 32), (50, 60, 52))
PATIENTS = (8, 16, 32)
CONFIGURATIONS = (6, 24, 96)
FOLDS = 4
Sizes = Sequence[float]
Costs = Callable[[Path], tuple[Sizes, Sizes]]
"""In a folder of its own: sizes, and what each costs."""


def benchmark_growth(*, short: bool = False) -> None:
    """Print the exponent of every cost, and the cost at each size."""
    rows = {}
    for name, costs in list(COSTS.items())[-2:] if short else COSTS.items():
        with tempfile.TemporaryDirectory() as folder:
            sizes, costly = costs(Path(folder))
        rows[name] = (exponent(sizes, costly), *costly)
    columns = ("exponent", "smallest", "middle", "largest")
    show(f"how cost grows, {torch.get_num_threads()} threads", columns, rows)
    grids = ", ".join("×".join(map(str, shape)) for shape in SHAPES)
    print(f"voxels: {grids}; patients: {PATIENTS}; configurations: {CONFIGURATIONS} on {FOLDS} folds")


def _voxels() -> list[int]:
    return [int(np.prod(shape)) for shape in SHAPES]


def _trials(folder: Path) -> list[Ours]:
    """A trial of 8 patients at each grid, in batches of 4."""
    found = []
    for number, shape in enumerate(SHAPES):
        (own := folder / str(number)).mkdir()
        found.append(Ours(configure(NETWORK, 4), random_fold(own, shape, 8, 8)))
    return found


def _epoch_by_voxels(folder: Path) -> tuple[Sizes, Sizes]:
    return _voxels(), [seconds(trial.train) for trial in _trials(folder)]


def _validation_by_voxels(folder: Path) -> tuple[Sizes, Sizes]:
    return _voxels(), [seconds(trial.validate) for trial in _trials(folder)]


def _epoch_by_patients(folder: Path) -> tuple[Sizes, Sizes]:
    found = []
    for patients in PATIENTS:
        (own := folder / str(patients)).mkdir()
        found.append(seconds(Ours(configure(NETWORK, 4), random_fold(own, SHAPES[1], patients, 4)).train))
    return PATIENTS, found


def _memory_by_voxels(_: Path) -> tuple[Sizes, Sizes]:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return _voxels(), pool.map(_step_memory, SHAPES, chunksize=1)


def _step_memory(shape: tuple[int, int, int]) -> float:
    """MB that a training epoch of 4 patients adds to the peak of this process."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Ours(configure(NETWORK, 4), random_fold(Path(folder), shape, 4, 4))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trial.train()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def _answer_by_voxels(folder: Path) -> tuple[Sizes, Sizes]:
    """A member's answer for one patient."""
    found = []
    for shape in SHAPES:
        (own := folder / str(shape[0])).mkdir()
        trial = Ours(configure(NETWORK, 1), random_fold(own, shape, 2, 2))
        classifier, volume = streamline(trial.classifier), trial.validation[:1]
        table = torch.from_numpy(trial.data.validation.tabular[:1])
        with torch.inference_mode():
            found.append(seconds(partial(classifier, volume, table), repeat=5))
    return _voxels(), found


def _preparation_by_patients(folder: Path) -> tuple[Sizes, Sizes]:
    """Scans that lie on the grid already: checked, vessels given, stored."""
    grid = over_field_of_view(SHAPES[1])
    most = PATIENTS[-1]
    write_synthetic_cohort(folder / "cohort", patients=40, profile="demo", seed=0, grid=grid, workers=1)
    scans = sorted((folder / "cohort" / "volumes").iterdir())[:most]
    rows = {scan.name: {name: scan / f"{name}.nii.gz" for name in ("ncct", "cta", "vessels")} for scan in scans}

    def prepare(patients: int) -> None:
        with tempfile.TemporaryDirectory() as store:
            chosen = dict(list(rows.items())[:patients])
            assert not prepare_cohort(chosen, Target(grid=grid), VolumeStore(Path(store)), workers=1).refused

    prepare(1)  # builds the atlas, once
    return PATIENTS, [seconds(partial(prepare, patients), repeat=1) for patients in PATIENTS]


def _stored(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds and MB of preparing one NCCT and CTA of 2 mm, which are registered, at each grid."""
    head = load_atlas().head
    scanner = Grid(shape=(98, 116, 94), spacing=(2, 2, 2), origin=(-95, -130, -70))
    rng, files = np.random.default_rng(0), {}
    for role in ("ncct", "cta"):
        hu = resample_to_grid(head, scanner, np.eye(4)) + rng.normal(0, 8, scanner.shape)
        files[role] = folder / f"{role}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), scanner.affine), files[role])
    taken, size = [], []
    for shape in SHAPES:
        store = VolumeStore(folder / f"store-{shape[0]}")
        target = Target(grid=over_field_of_view(shape))
        taken.append(seconds(partial(prepare_cohort, {"one": files}, target, store, workers=1), repeat=1))
        size.append(sum(path.stat().st_size for path in store.path.rglob("*.npy")) / 1e6)
    return taken, size


def _preparation_by_voxels(folder: Path) -> tuple[Sizes, Sizes]:
    return _voxels(), _stored(folder)[0]


def _store_by_voxels(folder: Path) -> tuple[Sizes, Sizes]:
    return _voxels(), _stored(folder)[1]


def _ensemble_by_configurations(_: Path) -> tuple[Sizes, Sizes]:
    """Building every ensemble that a study declares, from made-up predictions of 100 patients per fold."""
    found = []
    for number in CONFIGURATIONS:
        records, predictions = _made_up_trials(number)
        found.append(seconds(partial(study_ensembles, records, predictions, EnsembleConfig())))
    return CONFIGURATIONS, found


def _made_up_trials(configurations: int) -> tuple[list[CompletionRecord], pd.DataFrame]:
    rng, records, predictions = np.random.default_rng(0), [], []
    for number in range(configurations):
        modality = ("NCCT", "CTA", "BOTH")[number % 3]
        rate = {"learning_rate": 1e-4 * (1 + number)}
        configuration = Configuration.model_validate({"model": {"modality": modality}, "training": rate})
        for fold in range(FOLDS):
            label = np.arange(100) % 2
            rows = {"patient": [f"{fold}-{i}" for i in range(100)], "member": member_key(configuration, fold)}
            probability = 1 / (1 + np.exp(1 - 2 * label + rng.normal(size=100)))
            rows |= {"fold": fold, "split": "validation", "probability": probability, "label": label}
            predictions.append(pd.DataFrame(rows))
            hashes = {"split_hash": "s" * 64, "data_hash": "d" * 64}
            identity = TrialIdentity(study="growth", configuration=configuration.key, fold=fold, **hashes)
            metrics = {"val/loss": 0.5, "val/auc": float(rng.uniform(0.6, 0.9))}
            facts = {"status": "finished", "best_epoch": 1, "epochs": 1, "metrics": metrics, "seconds": 1.0}
            records.append(CompletionRecord(identity=identity, configuration=configuration, **facts))
    return records, pd.concat(predictions, ignore_index=True)


COSTS: dict[str, Costs] = {
    "preparation by voxels, s": _preparation_by_voxels,
    "preparation by patients, s": _preparation_by_patients,
    "store by voxels, MB": _store_by_voxels,
    "training epoch by voxels, s": _epoch_by_voxels,
    "training epoch by patients, s": _epoch_by_patients,
    "validation by voxels, s": _validation_by_voxels,
    "memory of a step by voxels, MB": _memory_by_voxels,
    "ensembles by configurations, s": _ensemble_by_configurations,
    "a member's answer by voxels, s": _answer_by_voxels,
}
