"""What the commands on a study that was searched share: opening it, and the runs that show its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlvo.cli.common import progress_bar
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir

if TYPE_CHECKING:
    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.search.inputs import StudyInputs
    from rlvo.training.baseline import BaselineResult

StudyArgument = Annotated[str, typer.Argument(help="A study's name in the work folder, or its YAML file.")]
MODEL_FOLDER = "ensemble/model"


def open_searched_study(study: str, work: Workdir) -> tuple[StudyConfig, StudyInputs]:
    """The study as it was started (a YAML file may change its ensemble settings) and its inputs, verified."""
    from rlvo.search.study import open_study, read_study

    given = load_study(Path(study)) if study.endswith((".yaml", ".yml")) else None
    frozen = read_study(work.study(given.name if given else study))
    assert frozen.cohort.table is not None  # open_study writes it
    inputs = open_study(given or frozen, frozen.cohort.table, work, progress=progress_bar)
    return read_study(work.study(frozen.name)), inputs


def cohort_folder(study_folder: Path) -> Path:
    """What the volume paths of a study's cohort are relative to."""
    from rlvo.search.study import read_study

    table = read_study(study_folder).cohort.table
    assert table is not None  # open_study writes it
    return table.parent


def log_ensemble(
    study: StudyConfig,
    workdir: Workdir,
    champion: EnsembleSpec,
    metrics: dict[str, float],
    pictures: Sequence[Path] = (),
) -> str:
    """Log figures of the study's own ensemble at its run, made where it is missing; the run id."""
    from rlvo.config.base import content_hash

    params: dict[str, object] = {
        "weighting": champion.weighting,
        "tie": champion.tie,
        "folds": len(champion.folds),
        **by_modality(champion),
    }
    key, file = content_hash(champion), workdir.study(study.name) / MODEL_FOLDER / "ensemble.json"
    return log_summary(study, workdir, "ensemble", key, f"ensemble {key[:8]}", params, metrics, [file, *pictures])


def by_modality(spec: EnsembleSpec) -> dict[str, str]:
    """The labels and keys of an ensemble's configurations, by modality; one that counts twice says so."""
    named: dict[str, list[str]] = {}
    for c, times in Counter(spec.configurations).items():
        named.setdefault(c.model.modality, []).append(f"{c.label} ({c.key})" + (f" × {times}" if times > 1 else ""))
    return {modality: "; ".join(labels) for modality, labels in named.items()}


def log_summary(
    study: StudyConfig,
    workdir: Workdir,
    kind: Literal["ensemble", "baseline"],
    key: str,
    name: str,
    params: dict[str, object],
    metrics: dict[str, float],
    files: Sequence[Path] = (),
) -> str:
    """Log figures (those that are numbers) at the run of an ensemble or a baseline; the run id."""
    from rlvo.tracking.summary_run import log_summary_run

    return log_summary_run(
        study,
        workdir.study(study.name),
        workdir.tracking_uri(study.mlflow.tracking_uri),
        workdir.artifacts,
        kind=kind,
        key=key,
        name=name,
        params=params,
        metrics={metric: float(value) for metric, value in metrics.items() if value == value},
        files=files,
    )


def baselines(inputs: StudyInputs) -> dict[str, BaselineResult]:
    """The clinical baselines on the study's folds, by name."""
    from rlvo.training.baseline import clinical_baselines

    return clinical_baselines(inputs.table, inputs.label, inputs.split, inputs.predictors)
