"""Whether a study fits this machine, and how long it takes: against the machine's own figures and planted records."""

import shutil
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.small_study import MakeStudy

from rlvo.cohort.splits import Split, write_split
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.files import atomic_write
from rlvo.search.calibration import Measured
from rlvo.search.forecast import TRIAL_SECONDS
from rlvo.search.plan import plan_study, trial_bytes
from rlvo.search.preflight import count_cpus, count_gpus
from rlvo.search.verdict import RAY_SECONDS, Verdict, judge
from rlvo.study.folder import StudyFolder
from rlvo.study.specs import Spec, model_specs, spec_of
from rlvo.training.records import CompletionRecord, TrialIdentity, write_record

MODALITIES = {"enumerate": {"model.modality": ["NCCT", "CTA", "BOTH"]}}


def verdict(study: StudyConfig, folder: Path, development: int | None = 100) -> Verdict:
    return judge(study, plan_study(study), Workdir(folder), development=development)


def measure(
    study: StudyConfig, folder: Path, modality: str, *, seconds: float, epochs: int, patients: int = 50
) -> None:
    """Leave a study of so many development patients with a trial that took so long."""
    place = StudyFolder(Workdir(folder).study(study.name))
    atomic_write(place.config, study.model_dump_json())
    halves = (tuple(f"p{i}" for i in range(patients // 2)), tuple(f"q{i}" for i in range(patients - patients // 2)))
    write_split(Split(test=("t",), folds=halves), place.split)
    configuration = study.configuration({"model.modality": modality})
    identity = TrialIdentity(
        study=study.name, configuration=configuration.key, fold=0, split_hash="s" * 64, data_hash="d" * 64
    )
    record = CompletionRecord(
        identity=identity, configuration=configuration, status="finished", epochs=epochs, seconds=seconds
    )
    (trial := place.trial(configuration.key, 0)).mkdir(parents=True)
    write_record(trial, record)


def test_memory_counts_the_trials_at_once(make_small: MakeStudy, tmp_path: Path) -> None:
    study = make_small(space=MODALITIES, search={"concurrent_trials": 1})
    one, many = verdict(study, tmp_path), verdict(make_small(space=MODALITIES), tmp_path)
    assert (one.fits, one.reasons, one.device) == (True, (), "CPU")
    assert (one.at_once, many.at_once) == (1, min(count_cpus(), 6))
    assert many.needed_bytes == many.at_once * many.trial_bytes
    largest = max(trial_bytes(model, study.grid.shape) for model in plan_study(study).models)
    assert one.trial_bytes > largest
    assert (one.available_bytes or 0) <= psutil.virtual_memory().total


def test_what_does_not_fit_is_named(make_small: MakeStudy, tmp_path: Path) -> None:
    lacking = verdict(make_small(resources={"gpus": count_gpus() + 1}), tmp_path)
    assert f"a trial asks for {count_gpus() + 1} GPU, and this machine has {count_gpus()}" in lacking.reasons
    assert not lacking.fits
    wide = verdict(make_small(resources={"cpus": 100_000}), tmp_path)
    assert (wide.at_once, wide.fits) == (0, False)
    study = make_small()
    huge = judge(study, replace(plan_study(study), checkpoint_bytes=10**18), Workdir(tmp_path))
    assert "of disk" in " ".join(huge.reasons)
    batch = psutil.virtual_memory().total // (16**3 * 4)
    assert "at once may need" in " ".join(verdict(make_small(training={"batch_size": batch}), tmp_path).reasons)


def test_hours_follow_from_trials_of_the_same_networks_on_the_same_grid(make_small: MakeStudy, tmp_path: Path) -> None:
    study = make_small(space=MODALITIES, training={"epochs": 4, "batch_size": 4}, search={"concurrent_trials": 1})
    assert verdict(study, tmp_path).hours is None
    assert "--measure" in verdict(study, tmp_path).pace
    overhead = RAY_SECONDS + 6 * TRIAL_SECONDS
    other = make_small("other", training={"epochs": 9, "batch_size": 4})
    measure(other, tmp_path, "NCCT", seconds=500, epochs=10)  # 1 s per patient and epoch
    measure(make_small("both"), tmp_path, "BOTH", seconds=1000, epochs=10)  # 2 s
    found = verdict(study, tmp_path)
    # 3 configurations × 2 folds × 4 epochs × 100 patients, of which NCCT and CTA, which cost the same, take 1 s
    assert found.hours == pytest.approx(((2 * 1 + 1 * 2) * 2 * 4 * 100 + overhead) / 3600)
    assert "GFLOP" not in found.pace
    assert verdict(study, tmp_path, development=None).hours is None
    coarse = make_small(grid={"shape": (20, 20, 20), "spacing": (8, 8, 8), "origin": (0, 0, 0)})
    assert verdict(coarse, tmp_path).hours is None
    shutil.rmtree(StudyFolder(Workdir(tmp_path).study("both")).path)
    plan = plan_study(study)
    guessed = verdict(study, tmp_path)
    ratio = plan.models[1].forward_gflop / plan.models[0].forward_gflop
    assert guessed.hours == pytest.approx(((2 * 1 + ratio) * 2 * 4 * 100 + overhead) / 3600)
    assert "1 of 2 networks by their GFLOP" in guessed.pace


def test_hours_and_energy_follow_from_what_was_measured(make_small: MakeStudy, tmp_path: Path) -> None:
    pruning = {"pruning": "halving", "min_epochs": 1, "first_folds": 1, "concurrent_trials": 1}
    study = make_small(
        space={"enumerate": {"training.learning_rate": [1e-3, 1e-4]}},
        training={"epochs": 4, "batch_size": 4},
        search=pruning,
    )
    measured = Measured(
        training=1.0, validation=1.0, reading=0.5, statistics=0.0, saving=0.0, peak_bytes=1, watts=500.0
    )
    told: list[int] = []

    def measure(config: StudyConfig, at_once: int) -> dict[Spec, Measured | str]:
        told.append(at_once)
        return {spec_of(each): measured for each in model_specs(study)}

    found = judge(study, plan_study(study), Workdir(tmp_path), development=100, measure=measure)
    start = TRIAL_SECONDS + 50  # the best weights predict the validation patients again
    # rungs: 1, 2 and 4 epochs on the first fold, of 2, 1 and 1 configurations; then the other fold
    steps = 2 * (100 + start) + (100 + start) + (200 + start) + (400 + start)
    assert found.hours == pytest.approx((RAY_SECONDS + steps) / 3600)
    assert found.hours_without_pruning == pytest.approx((RAY_SECONDS + 4 * (400 + start)) / 3600)
    assert found.kwh == pytest.approx(0.5 * (found.hours or 0))
    assert (found.measured, told) == ((measured,), [1])
    assert "measured on this machine" in found.pace

    broken = judge(
        study,
        plan_study(study),
        Workdir(tmp_path),
        development=100,
        measure=lambda *_: {spec_of(each): "out of memory" for each in model_specs(study)},
    )
    assert (broken.hours, broken.kwh, broken.measured) == (None, None, ("out of memory",))
