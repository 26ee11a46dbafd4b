"""What the trials of a study are trained on: read, selected, labelled, split and prepared, the same at every start."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.encoding import TabularEncoder, fit_encoder
from rlvo.cohort.reading import Cohort, data_hash, read_cohort, volume_paths
from rlvo.cohort.selection import Exclusion, Selection
from rlvo.cohort.splits import Split, make_split, persons, read_split, take_over, write_split
from rlvo.cohort.variables import check_predictors
from rlvo.config.base import by_path, content_hash
from rlvo.config.predictors import OwnPredictor
from rlvo.config.sections import CohortConfig
from rlvo.config.study import DEFAULTS, StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import atomic_write, on_one_disk
from rlvo.imaging.alignment.atlas import brain_mask
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.progress import ShowProgress
from rlvo.study.folder import StudyFolder, read_config, read_hashes, write_config
from rlvo.study.membership import Marks, patient_marks
from rlvo.study.specs import check_models, model_specs
from rlvo.training.baseline import fit_table_model, table_predictions
from rlvo.training.dataset import FoldData, Patients
from rlvo.training.records import TrialIdentity
from rlvo.training.table_model import TableModel

MAY_CHANGE = ("cohort.table", "cohort.columns", "atlas", "folds.test_patients", "search.configurations",
              "search.concurrent_trials", "search.max_failures", "resources.", "mlflow.", "ensemble.",
              "ablation.")  # fmt: skip
"""Fields that change no trial (the contents of the files are checked apart): a study continues, or is extended, with
other values."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyPatients:
    """The patients of a study: all that can be known of them without looking at a volume."""

    study: str
    cohort: CohortConfig
    """Which predictors there are, and how they are encoded."""
    table: pd.DataFrame
    """The included patients' rows, checked."""
    label: pd.Series
    """0 or 1 for each included patient."""
    split: Split
    excluded: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()
    """What had to be decided to read the table."""

    @property
    def predictors(self) -> tuple[str, ...]:
        return self.cohort.names

    @property
    def own(self) -> tuple[OwnPredictor, ...]:
        """The declarations of predictors that rlvo does not know."""
        return self.cohort.own

    @property
    def selection(self) -> Selection:
        """Who was included, and whom each rule excluded."""
        return Selection(tuple(self.table.index), self.excluded)

    def encoder(self, fold: int) -> TabularEncoder:
        """Fitted on the fold's training patients and nothing else."""
        return fit_encoder(
            self.table.loc[list(self.split.training(fold))],
            self.predictors,
            self.own,
            missing_flags=self.cohort.missing_flags,
            scaling=self.cohort.scaling,
            imputation=self.cohort.imputation,
        )

    def table_model(self, fold: int) -> TableModel:
        """The fold's model of the table (`ensemble.table_member`), fitted like its encoder."""
        training = list(self.split.training(fold))
        return fit_table_model(self.encoder(fold), self.table.loc[training], self.label[training])

    def table_models(self, spec: EnsembleSpec) -> dict[int, TableModel]:
        """Those of all folds, if they are members of an ensemble of the study."""
        return {fold.fold: self.table_model(fold.fold) for fold in spec.folds} if spec.has_table else {}

    def table_predictions(self) -> pd.DataFrame:
        """What the models of the table say of each fold's validation patients: `evaluation.predictions`."""
        folds = []
        for fold in range(len(self.split.folds)):
            own = list(self.split.validation(fold))
            table, label = self.table.loc[own], self.label[own]
            folds.append(table_predictions(self.table_model(fold), self.encoder(fold), table, label, fold))
        return pd.concat(folds, ignore_index=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyInputs(StudyPatients):
    """What trials are trained on. Holds the table and addresses, no volumes, so it is cheap to send to workers."""

    volumes: Mapping[str, Path]
    """Each included patient's folder in the store."""
    target: Target
    brain_mask: np.ndarray
    """[X, Y, Z] bool."""
    data_hash: str
    """Over labels, predictor values and volumes of the included patients."""
    cohort_folder: Path
    """What the volume paths of the cohort's table are relative to."""
    doubts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why a person should look at a patient's volumes, by patient; patients without doubts are left out."""
    refused: Mapping[str, RlvoError] = field(default_factory=dict)
    """Why patients were excluded whose volumes cannot be used."""
    pretrained: tuple[str, ...] = ()
    """How the pretrained weights fit the networks, line by line; a search finds out."""

    def patients(self, ids: tuple[str, ...], encoder: TabularEncoder) -> Patients:
        """These patients as training and prediction take them."""
        table, label = self.table.loc[list(ids)], self.label.loc[list(ids)]
        return Patients(
            ids=ids,
            volumes=tuple(self.volumes[patient] for patient in ids),
            tabular=encoder.transform(table),
            labels=label.to_numpy(copy=True),
            persons=tuple(persons(label, table)),
            measured=encoder.measured(table),
        )

    def marks(self, ids: tuple[str, ...]) -> dict[str, Marks]:
        """What these patients are recognised by, should they come again under other ids."""
        return patient_marks(self.table.loc[list(ids)], {patient: self.volumes[patient].name for patient in ids})

    def fold_data(self, fold: int) -> FoldData:
        """Training and validation patients of a fold."""
        encoder = self.encoder(fold)
        training, validation = self.split.training(fold), self.split.validation(fold)
        own, others = self.patients(training, encoder), self.patients(validation, encoder)
        return FoldData(own, others, self.brain_mask, encoder, self.target.grid)

    def identity(self, key: str, fold: int) -> TrialIdentity:
        """What the trial of a configuration, given by its key, on a fold is."""
        return TrialIdentity(
            study=self.study, configuration=key, fold=fold, split_hash=self.split.hash, data_hash=self.data_hash
        )


def open_study(
    config: StudyConfig,
    cohort_path: Path,
    workdir: Workdir,
    *,
    progress: ShowProgress,
    workers: int | None = None,
    reserved: int = 0,
) -> StudyInputs:
    """Read and check everything a study needs, prepare its volumes, and freeze its configuration and split.

    A patient whose volumes are refused is excluded, as by any rule of the selection. The first start writes the frozen
    files to the study's folder; later starts must agree with them.

    Args:
        config: the study's configuration.
        cohort_path: the cohort table.
        workdir: where the study and the prepared volumes lie.
        progress: shows how far the preparation is.
        workers: processes that prepare volumes; None: one per core.
        reserved: bytes that trials will write into the study's folder.

    Raises:
        RlvoError: the cohort, a volume or a network's size is at fault, or the study was started with other settings.
    """
    study, table_path = StudyFolder(workdir.study(config.name)), cohort_path.expanduser().resolve()
    config = settle(config.with_setting("cohort.table", table_path), study)
    _check_same_settings(config, study)
    check_models(config)

    cohort = _read_cohort(config, cohort_path, study)
    split = _draw_split(config, cohort.label, cohort.included, study)  # before hours of work: there may be too few
    cohort = cohort.restricted((*split.test, *split.development), f"not in study {config.folds.of_study}")
    table, label = cohort.included, cohort.label
    store, target = VolumeStore(workdir.store), Target(grid=config.grid, atlas=config.atlas)
    with progress("preparing volumes") as advance:
        volumes = prepare_cohort(
            volume_paths(table, cohort.folder),
            target,
            store,
            workers=workers,
            reserved=reserved if on_one_disk(store.path, study.path) else 0,
            progress=advance,
        )
    if volumes.refused and not volumes.prepared:
        findings = [Finding(patient, None, str(error)) for patient, error in volumes.refused.items()]
        raise CohortError(findings, where="volumes")
    folders = {patient: store.folder(each.address) for patient, each in volumes.prepared.items()}
    if unusable := {*_without_vessels(config, folders)} & {*split.training_only}:
        volumes = volumes.refusing(unusable, "no vessel mask, which models with the prior need")
    volumes = volumes.with_sides(table["occlusion_side"].dropna() if "occlusion_side" in table else {})
    if volumes.refused:
        table, label = table.loc[list(volumes.prepared)], label.loc[list(volumes.prepared)]
        split = _draw_split(config, label, table, study)
    addresses = {patient: each.address for patient, each in volumes.prepared.items()}
    inputs = StudyInputs(
        study=config.name,
        cohort=config.cohort,
        table=table,
        label=label,
        split=_frozen_split(split, study),
        volumes={patient: store.folder(address) for patient, address in addresses.items()},
        target=target,
        brain_mask=brain_mask(config.grid),
        data_hash=content_hash(
            {"table": data_hash(table, label, config.cohort.names, config.cohort.own), "volumes": addresses}
        ),
        cohort_folder=cohort.folder,
        excluded=cohort.selection.without(volumes.refused).excluded,
        notes=cohort.notes,
        doubts={patient: each.doubts for patient, each in volumes.prepared.items() if each.doubts},
        refused=volumes.refused,
    )
    _check_vessels(config, inputs.volumes)
    if study.inputs.exists() and read_hashes(study)["data_hash"] != inputs.data_hash:
        raise RlvoError(
            "predictors or volumes of the cohort have changed since the study was started",
            where=config.name,
            fix="Give the study another name, or use the cohort it was started with",
        )
    write_split(inputs.split, study.split)
    hashes = {"data_hash": inputs.data_hash, "split_hash": inputs.split.hash}
    atomic_write(study.inputs, json.dumps(hashes, indent=1))
    write_config(study, config)
    return inputs


NOT_IN_STUDY = "volumes refused, or not in the study's split"


def read_patients(config: StudyConfig, study: StudyFolder, cohort_path: Path) -> StudyPatients:
    """Read the patients of a study that was started; nothing is prepared, and nothing is written.

    Args:
        config: as it was frozen.
        study: its folder.
        cohort_path: the cohort table.

    Raises:
        RlvoError: the cohort is at fault, or its patients or labels have changed since the study was started.
    """
    cohort, split = _read_cohort(config, cohort_path, study), read_split(study.split)
    known = {*split.test, *split.development}
    cohort = cohort.restricted(known, NOT_IN_STUDY)
    table, label = cohort.included, cohort.label
    _frozen_split(_draw_split(config, label, table, study), study)
    excluded = cohort.selection.excluded
    return StudyPatients(
        study=config.name,
        cohort=config.cohort,
        table=table,
        label=label,
        split=split,
        excluded=excluded,
        notes=cohort.notes,
    )


def _read_cohort(config: StudyConfig, table: Path, study: StudyFolder, declared: Sequence[OwnPredictor] = ()) -> Cohort:
    """The cohort of the study, or, if it takes over another study's split, that study's, and whom it recovers.

    What is `declared` by the study that takes it over comes before its own declarations.
    """
    predictors = config.cohort.names
    own = tuple({each.name: each for each in (*config.cohort.own, *declared)}.values())
    if config.folds.of_study is None:
        return read_cohort(table, predictors, own, mapping=config.cohort.columns)
    other = _other(config.folds.of_study, study)
    check_predictors(predictors, config.cohort.own)
    cohort = _read_cohort(read_config(other), table, other, own)
    if lacking := [each.name for each in config.cohort.own if each.name not in cohort.table]:
        raise RlvoError("the table has no such column", where=", ".join(lacking), fix="Add it, or name its source")
    return cohort.recovering(predictors) if config.folds.others == "train" else cohort


def _other(name: str, study: StudyFolder) -> StudyFolder:
    """Another study of the same work folder."""
    return StudyFolder(study.path.parent / name)


def _draw_split(config: StudyConfig, label: pd.Series, table: pd.DataFrame, study: StudyFolder) -> Split:
    """A new split, or that of the study that the configuration names."""
    if config.folds.of_study is None:
        return make_split(label, config.folds, table)
    other = read_split(_other(config.folds.of_study, study).split)
    return take_over(other, label, table, train_others=config.folds.others == "train")


def settle(config: StudyConfig, study: StudyFolder) -> StudyConfig:
    """Fill in DEFAULTS if the configuration names no value: as the study was started, if it was."""
    frozen = read_config(study) if study.config.exists() else None
    for path, (_, now) in DEFAULTS.items():
        if not config.names(path):
            config = config.with_setting(path, frozen.default(path) if frozen else now)
    return config


def _check_same_settings(config: StudyConfig, study: StudyFolder) -> None:
    if not study.config.exists():
        return
    before, now = (
        by_path({**each.model_dump(mode="json"), **each.model_dump(include={"model", "training"})})  # JSON lacks some
        for each in (read_config(study), config)
    )
    changed = [
        f"{path}: {before.get(path)!r} became {now.get(path)!r}"
        for path in dict.fromkeys([*before, *now])
        if before.get(path) != now.get(path) and not path.startswith(MAY_CHANGE)
    ]
    if changed:
        raise RlvoError(
            f"a study of this name has other settings ({'; '.join(changed)})",
            where=config.name,
            fix="Give the study another name, or use the settings it was started with",
        )


def _without_vessels(config: StudyConfig, volumes: Mapping[str, Path]) -> list[str]:
    """The patients whom the study's models with the prior cannot be given, if it has some."""
    if not any(configuration.model.prior for configuration in model_specs(config)):
        return []
    return [patient for patient, folder in volumes.items() if not (folder / "vessels.npy").exists()]


def _check_vessels(config: StudyConfig, volumes: Mapping[str, Path]) -> None:
    if without := _without_vessels(config, volumes):
        raise RlvoError(
            f"models with the prior need a vessel mask; {len(without)} patient(s) have none, and their CTA is too "
            f"coarse to find vessels in: {', '.join(without[:5])}",
            where="vessels",
            fix="Add the masks, or set model.prior to false",
        )


def _frozen_split(split: Split, study: StudyFolder) -> Split:
    """The split as it was written at the first start. Raises RlvoError if it is no longer this cohort's."""
    if not study.split.exists():
        return split
    written = read_split(study.split)
    if written.hash != split.hash:
        raise RlvoError(
            "the study was split differently: its patients or labels have changed since",
            where=study.split,
            fix="Give the study another name, or use the cohort it was started with",
        )
    return written
