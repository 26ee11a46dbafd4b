"""The demonstration: the whole platform on a synthetic cohort for which the best possible AUCs are known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvo.config.loading import load_study
from rlvo.config.shipped import shipped_studies
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.files import parse_json
from rlvo.imaging.store import open_volumes
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.study_picture import RocCurve, draw_study_picture
from rlvo.report.tables import ModelResults
from rlvo.study.image_baseline import IMAGE, JOINT
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.workflows.ensemble import BuiltEnsemble, build_and_register
from rlvo.workflows.evaluate import evaluate
from rlvo.workflows.holdout import Evaluation, HoldOut, kept_evaluation
from rlvo.workflows.holdout_questions import CLINICAL
from rlvo.workflows.search import ShowState, search
from rlvo.workflows.study import OpenStudy


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demonstration gave."""

    config: StudyConfig
    """Of the study, as it was started."""
    table: Path
    truth: dict[str, Any]
    """Of the synthetic cohort: its ceilings, and a statement of what they mean."""
    built: BuiltEnsemble
    holdout: HoldOut
    models: dict[str, ModelResults]
    """With their ceilings, the study's own ensemble last."""
    picture: Path
    is_new: bool
    """False if everything was finished before."""


def demonstrate(
    work: Workdir,
    *,
    patients: int = 480,
    profile: str = "demo",
    seed: int = 1,
    config: Path | None = None,
    progress: ShowProgress = no_progress,
    show_state: ShowState | None = None,
) -> Demonstration:
    """Write a synthetic cohort, search, build and register the ensemble, and open the hold-out once.

    Run again, it continues where it stopped, and never opens the hold-out a second time.

    Args:
        patients, profile, seed: of the synthetic cohort.
        config: a study; None: the shipped `demo`.

    Raises:
        RlvoError: the work folder holds another cohort, or no configuration finished.
    """
    study = load_study(config or shipped_studies()["demo"])
    table = work.path / "cohort" / "cohort.csv"
    truth = _write_cohort(table.parent, study, progress, patients=patients, profile=profile, seed=seed)
    opened, state = search(study, table, work, progress=progress, show_state=show_state)
    if state.best is None:
        fix = f"`{opened.folder.command('status')}` shows why each failed"
        raise RlvoError("no configuration finished", where=study.name, fix=fix)
    built = build_and_register(opened, progress=progress)
    kept = kept_evaluation(opened)
    evaluated = kept or evaluate(opened, progress=progress)
    specs, ceilings = built.specs, truth["ceilings"]
    models = {
        name: replace(
            model, ceiling=ceiling(specs[name], ceilings) if name in specs else ceilings[SEES.get(name, "clinical")]
        )
        for name, model in evaluated.models.items()
    }
    models[STUDY_ENSEMBLE] = models.pop(STUDY_ENSEMBLE)
    picture = draw_demonstration(work.path / f"{study.name}.png", opened, evaluated, built.registered)
    return Demonstration(opened.config, table, truth, built, evaluated.holdout, models, picture, is_new=kept is None)


SEES = {IMAGE: "both", JOINT: "bayes"}
"""What the baselines of the volumes see, as `truth.json` names it."""


def ceiling(spec: EnsembleSpec, ceilings: Mapping[str, float]) -> float:
    """The best AUC from what the ensemble's members see: their images, and the table if one of them has a fusion."""
    seen = {channel for c in spec.configurations for channel in c.model.channels}
    images = "both" if {"ncct", "cta"} <= seen or "vessels" in seen else seen.pop()
    if not spec.reads_table:
        return ceilings[images]
    return ceilings["bayes" if images == "both" else f"{images}_clinical"]


def _write_cohort(
    folder: Path, study: StudyConfig, progress: ShowProgress, *, patients: int, profile: str, seed: int
) -> dict[str, Any]:
    """Write the synthetic cohort unless it is there already; return its truth."""
    truth, table = folder / "truth.json", folder / "cohort.csv"
    if not table.exists():
        with progress("synthetic patients") as advance:
            write_synthetic_cohort(
                folder, patients=patients, profile=profile, seed=seed, grid=study.grid, progress=advance
            )
    try:
        known: dict[str, Any] = dict(parse_json(truth.read_text()))
    except (OSError, ValueError, TypeError):
        raise RlvoError("this is no cohort of the demo's", where=table, fix="Use another --workdir") from None
    if (known["profile"], known["patients"], known["seed"]) != (profile, patients, seed):
        raise RlvoError(
            f"holds another cohort: profile {known['profile']}, {known['patients']} patients, seed {known['seed']}",
            where=table,
            fix="Use another --workdir",
        )
    return known


def draw_demonstration(path: Path, study: OpenStudy, evaluated: Evaluation, registered: str) -> Path:
    """ROC curves on the hold-out, the study's ensemble last, beside the volumes of its first patient with rLVO."""
    holdout, label = evaluated.holdout, study.inputs.label
    answers = {str(name): own.dropna(subset="score") for name, own in holdout.answers.groupby("ensemble", sort=False)}
    if CLINICAL in study.baselines:
        clinical = study.baselines[CLINICAL].score(study.test)
        answers = {CLINICAL: clinical.assign(label=label.loc[clinical.index])} | answers
    answers[STUDY_ENSEMBLE] = answers.pop(STUDY_ENSEMBLE)
    curves = [
        RocCurve(
            f"{name} (baseline)" if name == CLINICAL else name,
            own["label"].to_numpy(int),
            own["score"].to_numpy(float),
            evaluated.models[name].holdout.interval,
            is_baseline=name == CLINICAL,
        )
        for name, own in answers.items()
        if evaluated.models[name].same_as is None
    ]
    shown = next(patient for patient in study.inputs.split.test if label[patient] == 1)
    stored = open_volumes(study.inputs.volumes[shown])
    volumes = {title: stored[name] for name, title in (("ncct", "NCCT"), ("cta", "CTA"), ("vessels", "vessels"))}
    own = evaluated.models[STUDY_ENSEMBLE].holdout
    draw_study_picture(
        path,
        curves,
        volumes,
        spacing=study.config.grid.spacing,
        title=f"rlvo {study.config.name}: hold-out of {own.patients} synthetic patients, {own.positives} with rLVO",
        notes=[
            f"Opening {holdout.opening} of the hold-out; {own.interval_method}. Right: one of its patients with rLVO.",
            registered,
        ],
    )
    return path
