"""A study that was searched, opened again: what building its ensembles and evaluating them have in common."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from rlvo.config.base import content_hash
from rlvo.config.commands import command_line
from rlvo.config.loading import named_study
from rlvo.config.sections import EnsembleConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.spec import IMAGE, TABLE, EnsembleSpec
from rlvo.errors import MachineError, get_logger
from rlvo.mlflow_client import Tracking
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.versions import logged_model
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.image_baseline import image_predictions, read_image_baselines
from rlvo.study.inputs import StudyInputs, StudyPatients, open_study, read_patients
from rlvo.study.trials import EndedTrials, read_ended_trials
from rlvo.tracking.after_search import log_model_metrics, log_summary_run
from rlvo.tracking.datasets import PatientGroup, StudyGroups
from rlvo.tracking.views import study_pages
from rlvo.training.baseline import BaselineResult, clinical_baselines
from rlvo.training.records import linear_member_key

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class ReadStudy:
    """A study that was started, and its patients."""

    config: StudyConfig
    """As it was frozen in the study folder; its table is where it was read now."""
    work: Workdir
    inputs: StudyPatients

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.work.study(self.config.name))

    @property
    def development(self) -> pd.DataFrame:
        """The development patients' rows."""
        return self.inputs.table.loc[list(self.inputs.split.development)]

    @property
    def test(self) -> pd.DataFrame:
        """The rows of the patients who are held out."""
        return self.inputs.table.loc[list(self.inputs.split.test)]

    def ended_trials(self) -> EndedTrials:
        """What its trials left (`read_ended_trials`), with the predictions of the linear models among theirs.

        Those of the volumes are there once they were fitted (`rlvo ensemble`). Errors are those of `read_ended_trials`.
        """
        trials, inputs = read_ended_trials(self.folder), self.inputs
        linear = [inputs.table_predictions(), image_predictions(self.folder, inputs.label)]
        every = pd.concat([trials.predictions, *(each for each in linear if len(each))], ignore_index=True)
        return replace(trials, predictions=every)

    def usable_settings(self, trials: EndedTrials) -> EnsembleConfig:
        """As `usable_settings`, and a word about what is not as the study says."""
        settings = usable_settings(self.config.ensemble, trials)
        if settings != self.config.ensemble:
            what = "without the linear model of the volumes, which is not fitted yet; '%s' fits it"
            logger.warning(what, self.folder.command("ensemble"))
        return settings

    @cached_property
    def baselines(self) -> dict[str, BaselineResult]:
        """The clinical baselines on the study's folds by name, and those of the volumes if an ensemble was built."""
        inputs = self.inputs
        clinical = clinical_baselines(
            inputs.table, inputs.label, inputs.split, inputs.predictors, inputs.cohort.imputation, inputs.own
        )
        return clinical | read_image_baselines(self.folder, inputs.label)


@dataclass(frozen=True, eq=False)
class OpenStudy(ReadStudy):
    """A study and its inputs, verified against what it was started with."""

    inputs: StudyInputs

    @property
    def tracking(self) -> Tracking:
        """Where the study's runs are and its model is registered."""
        return tracking_of(self.work, self.config)

    def log_figures(
        self,
        kind: Literal["ensemble", "baseline"],
        key: str,
        name: str,
        metrics: Mapping[str, float],
        params: Mapping[str, object] | None = None,
        files: Sequence[Path] = (),
        datasets: Sequence[PatientGroup] = (),
        texts: Mapping[str, str] | None = None,
    ) -> str:
        """Log those of the figures that are numbers at the run of an ensemble or a baseline; return the run's id."""
        return log_summary_run(
            self.config,
            self.folder,
            self.tracking,
            kind=kind,
            key=key,
            name=name,
            params=params or {},
            metrics=defined(metrics),
            files=files,
            texts=texts or {},
            datasets=datasets,
        )

    @property
    def groups(self) -> StudyGroups:
        """Its patients, as MLflow's datasets."""
        return StudyGroups.of(self.folder)

    def log_ensemble(
        self,
        spec: EnsembleSpec,
        figures: Mapping[PatientGroup, Mapping[str, float]],
        pictures: Sequence[Path] = (),
        texts: Mapping[str, str] | None = None,
    ) -> str:
        """Log figures at the run of the study's own ensemble, which is made if it is missing; return the run's id.

        Args:
            figures: by the group of patients that they are of.
            pictures: files.
            texts: such as SVG, by their path among the run's artifacts.
        """
        metrics = {name: value for each in figures.values() for name, value in each.items()}
        params: dict[str, object] = {"member_scale": spec.member_scale, "weighting": spec.weighting, "tie": spec.tie}
        params |= {"folds": len(spec.folds), **labels_by_modality(spec)}
        key, description = content_hash(spec), self.folder.model / "ensemble.json"
        name, files = f"ensemble {key[:8]}", [description, *pictures]
        return self.log_figures("ensemble", key, name, metrics, params, files, [*figures], texts)

    def log_model(self, spec: EnsembleSpec, version: str, figures: Mapping[PatientGroup, Mapping[str, float]]) -> None:
        """Log figures of the study's own ensemble at the model that was registered as `version`, too."""
        name = self.config.mlflow.registered_model
        if model := logged_model(self.tracking, name, version):
            shown = {group: defined(metrics) for group, metrics in figures.items()}
            log_model_metrics(
                self.config, self.folder, self.tracking, key=content_hash(spec), model=model, figures=shown
            )


def knows_linear_image(trials: EndedTrials) -> bool:
    """Whether the predictions of the linear models of the volumes are among those of ended trials."""
    return linear_member_key(0, with_table=False) in set(trials.predictions["member"])


def usable_settings(settings: EnsembleConfig, trials: EndedTrials) -> EnsembleConfig:
    """How ended trials can be combined: as a study says, but without a linear model that is not fitted yet."""
    is_fitted = settings.linear_image == "none" or knows_linear_image(trials)
    return settings if is_fitted else settings.model_copy(update={"linear_image": "none"})


def open_searched_study(
    study: str | Path | StudyConfig, work: Workdir, *, cohort: Path | None = None, progress: ShowProgress = no_progress
) -> OpenStudy:
    """Open a study that was searched: as it was started, or with the ensemble settings that are given now.

    Args:
        study: its name in the work folder, its YAML file, or its configuration.
        cohort: its table; None: where it was when the study was last opened.

    Raises:
        RlvoError: no study of this name was started, or its settings or its cohort have changed since.
    """
    name, given = named_study(study)
    folder = StudyFolder(work.study(name))
    frozen = read_config(folder, _file(study))
    table = cohort or frozen.cohort.table
    assert table is not None  # open_study writes it
    inputs = open_study(given or frozen, table, work, progress=progress)
    return OpenStudy(read_config(folder), work, inputs)


def read_study(study: str | Path | StudyConfig, work: Workdir, *, cohort: Path | None = None) -> ReadStudy:
    """Read a study that was started, and its cohort's table; no volume is looked at, and nothing is written.

    Arguments and errors are those of `open_searched_study`.
    """
    folder = StudyFolder(work.study(named_study(study)[0]))
    config = read_config(folder, _file(study))
    table = cohort or config.cohort.table
    assert table is not None  # open_study writes it
    config = config.with_setting("cohort.table", table)
    return ReadStudy(config, work, read_patients(config, folder, table))


def _file(study: str | Path | StudyConfig) -> Path | None:
    """The YAML file, if that is how a study is named."""
    return None if isinstance(study, StudyConfig) or Path(study).suffix not in (".yaml", ".yml") else Path(study)


def tracking_of(work: Workdir, config: StudyConfig | None = None) -> Tracking:
    """Where MLflow is: as the environment says, else as the study does, else in the work folder."""
    return Tracking(work.tracking_uri(config.mlflow.tracking_uri if config else None), work.artifacts)


def where_in_mlflow(work: Workdir, config: StudyConfig) -> dict[str, str]:
    """How to open MLflow's UI, then the pages of a study in it, by name; empty if MLflow does not answer."""
    tracking = tracking_of(work, config)
    try:
        pages = asdict(study_pages(config, tracking))
    except MachineError:
        return {}
    return {"MLflow": tracking.ui if tracking.is_server else command_line("ui", workdir=work.path), **pages}


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are not NaN."""
    return {name: float(value) for name, value in metrics.items() if value == value}


def labels_by_modality(spec: EnsembleSpec) -> dict[str, str]:
    """The labels and keys of an ensemble's configurations by modality; its baselines under `table` and `linear_image`.

    One that counts twice says so.
    """
    labels: dict[str, list[str]] = {}
    for c, times in Counter(spec.configurations).items():
        labels.setdefault(c.model.modality, []).append(f"{c.label} ({c.key})" + (f" × {times}" if times > 1 else ""))
    found = {modality: "; ".join(each) for modality, each in labels.items()}
    if times := spec.contenders.count(TABLE):
        found["table"] = "ridge" + (f" × {times}" if times > 1 else "")
    if (kind := spec.linear_image) is not None:
        times = spec.contenders.count(kind)
        found["linear_image"] = ("alone" if kind == IMAGE else "with table") + (f" × {times}" if times > 1 else "")
    return found
