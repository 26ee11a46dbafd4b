"""`rlvo evaluate`: a study's frozen ensembles on its hold-out, whose openings are counted, or a model elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar, say
from rlvo.cli.external import evaluate_elsewhere
from rlvo.cli.studies import (
    MODEL_FOLDER,
    baselines,
    cohort_folder,
    log_ensemble,
    log_summary,
    open_searched_study,
)
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.evaluation.figures import Figures
    from rlvo.evaluation.subgroups import Subgroup
    from rlvo.registry.holdout import HoldOut
    from rlvo.registry.openings import Openings
    from rlvo.report.tables import Performance
    from rlvo.search.inputs import StudyInputs


@dataclass(frozen=True)
class Evaluation:
    """One opening of a study's hold-out."""

    holdout: HoldOut
    models: dict[str, Performance]
    """The clinical baselines on the same folds, then every declared ensemble, the study's own first."""


def evaluate(
    name: Annotated[
        str,
        typer.Argument(
            help="A study's name or YAML file; with COHORT a registered model (rlvo-ensemble@champion) or its folder.",
            metavar="STUDY|MODEL",
        ),
    ],
    cohort: Annotated[
        Path | None,
        typer.Argument(help="Table of another cohort, with outcomes: external validation.", metavar="COHORT"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Open a hold-out that was opened before.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is opened again; kept in the log.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="With COHORT: add the figures to the version's description under this title.", metavar="TEXT"
        ),
    ] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Open the hold-out, once, for all ensembles a study has declared and the clinical baselines.

    The study's own ensemble is shown in subgroups too. A later opening needs --again and a --reason; all are counted.
    With COHORT: a registered model on another hospital's patients, at its frozen thresholds; run again, it goes on.

    Example: rlvo evaluate demo; rlvo evaluate rlvo-ensemble@champion hospital-b.csv
    """
    if cohort is not None:
        if again or reason:
            raise RlvoError("--again and --reason are for a hold-out", where=cohort, fix="Leave them out")
        evaluate_elsewhere(name, cohort, workdir, record=record, json=json)
        return
    if record:
        raise RlvoError("--record goes with COHORT; an opening of a hold-out is recorded anyway", fix="Leave it out")
    from rlvo.report.subgroups import subgroup_table
    from rlvo.report.tables import performance_table

    if again != bool(reason and reason.strip()):
        raise RlvoError("--again goes with --reason TEXT, and only with it", fix="Give both, or neither")
    work = Workdir.at(workdir)
    config, inputs = open_searched_study(name, work)
    evaluated = evaluate_study(config, inputs, work, reason=reason)
    holdout, subgroups = evaluated.holdout, ensemble_subgroups(inputs, evaluated.holdout)
    if json:
        emit_json(
            {
                "opening": holdout.opening,
                "split_hash": inputs.split.hash,
                "ensembles": {name: asdict(of_name) for name, of_name in holdout.figures.items()},
                "baselines": {name: asdict(of_name) for name, of_name in holdout.baselines.items()},
                "subgroups": [{**vars(each), "levels": each.levels.to_dict("records")} for each in subgroups],
                "notice": NOTICE,
            }
        )
        return
    console.print(
        performance_table(evaluated.models, title=f"{config.name}: opening {holdout.opening} of its hold-out")
    )
    console.print(subgroup_table(subgroups, title=f"\n{config.name}: its own ensemble in subgroups of the hold-out"))
    first = next(iter(holdout.figures.values()))
    if first.unanswered:
        say(f"{first.unanswered} patients could not be answered for and are left out; the kept answers say why")
    say(NOTICE)


def evaluate_study(
    study: StudyConfig, inputs: StudyInputs, workdir: Workdir, *, reason: str | None = None
) -> Evaluation:
    """Open the study's hold-out for its declared ensembles and the baselines; log the figures of its own and theirs.

    Raises RlvoError where it was opened before and no `reason` is given, or the log of openings was altered.
    """
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.ensemble.declared import read_declared
    from rlvo.imaging.store import VolumeStore
    from rlvo.registry.folder import read_description
    from rlvo.registry.holdout import evaluate_ensembles

    folder, test = workdir.study(study.name), inputs.table.loc[list(inputs.split.test)]
    specs, openings = read_declared(folder), _openings(study, workdir)
    with progress_bar("hold-out patients") as progress:
        holdout = evaluate_ensembles(
            specs,
            read_description(folder / MODEL_FOLDER),
            folder,
            test,
            inputs.label,
            cohort_folder(folder),
            openings,
            reason=reason,
            baselines=lambda: _baseline_figures(inputs),
            store=VolumeStore(workdir.store),
            progress=progress,
        )
    _seal(study, workdir, openings, holdout.opening)
    log_ensemble(study, workdir, specs[STUDY_ENSEMBLE], _metrics(holdout.figures[STUDY_ENSEMBLE], holdout.opening))
    for name, figures in holdout.baselines.items():
        log_summary(study, workdir, "baseline", name, name, {}, _metrics(figures, holdout.opening))
    _describe(study, workdir, specs[STUDY_ENSEMBLE], inputs, holdout)
    return Evaluation(holdout, _performance(inputs, folder, specs, holdout))


def kept_evaluation(study: StudyConfig, inputs: StudyInputs, workdir: Workdir) -> Evaluation | None:
    """What the last opening showed of the study's declared ensembles, opening nothing; None where there is nothing."""
    from rlvo.ensemble.declared import read_declared
    from rlvo.registry.holdout import kept_holdout

    folder = workdir.study(study.name)
    specs = read_declared(folder)
    holdout = kept_holdout(folder, specs)
    return Evaluation(holdout, _performance(inputs, folder, specs, holdout)) if holdout is not None else None


def ensemble_subgroups(inputs: StudyInputs, holdout: HoldOut) -> list[Subgroup]:
    """The study's own ensemble on its hold-out, by sex, age, site, center and etiology."""
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.evaluation.subgroups import standard_groupings, subgroup

    answers = holdout.answers[holdout.answers["ensemble"] == STUDY_ENSEMBLE].dropna(subset="score")
    own = answers.set_index("patient_id")
    groupings = standard_groupings(inputs.table.loc[own.index], own["label"])
    votes = own["rlvo"].to_numpy(int)
    return [subgroup(name, level, own["label"], own["score"], votes) for name, level in groupings.items()]


def _openings(study: StudyConfig, workdir: Workdir) -> Openings:
    """The work folder's log, held against what MLflow keeps of it at the runs of all its studies."""
    from rlvo.registry.openings import openings_of
    from rlvo.search.status import read_study, study_folders
    from rlvo.tracking.seals import read_seals

    studies = [(read_study(folder), folder) for folder in study_folders(workdir.path / "studies")]
    uri = workdir.tracking_uri(study.mlflow.tracking_uri)
    return openings_of(workdir.path, read_seals(studies, uri, workdir.artifacts))


def _seal(study: StudyConfig, workdir: Workdir, openings: Openings, opening: int) -> None:
    from rlvo.tracking.seals import write_seal

    seal = openings.seal()
    assert seal is not None  # it was just opened
    uri = workdir.tracking_uri(study.mlflow.tracking_uri)
    write_seal(study, workdir.study(study.name), uri, workdir.artifacts, seal=seal, openings=opening)


def _describe(
    study: StudyConfig, workdir: Workdir, champion: EnsembleSpec, inputs: StudyInputs, holdout: HoldOut
) -> None:
    """Add the figures of the study's own ensemble to the description of its version, where it is registered."""
    from rlvo.config.base import content_hash
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.evaluation.answers import answer_figures
    from rlvo.registry.card import add_to_description
    from rlvo.registry.versions import registered_version
    from rlvo.report.external import figure_lines

    uri, name = workdir.tracking_uri(study.mlflow.tracking_uri), study.mlflow.registered_model
    tags = {"rlvo.study": study.name, "rlvo.ensemble": content_hash(champion)}
    if (version := registered_version(uri, name, tags)) is None:
        return
    answers = holdout.answers[holdout.answers["ensemble"] == STUDY_ENSEMBLE].set_index("patient_id")
    lines = figure_lines(answer_figures(answers, inputs.label))
    add_to_description(uri, name, version, f"hold-out of {study.name}, opening {holdout.opening}", lines)


def _baseline_figures(inputs: StudyInputs) -> dict[str, Figures]:
    from rlvo.report.baselines import baseline_performance

    performance = baseline_performance(baselines(inputs), inputs.table.loc[list(inputs.split.test)], inputs.label)
    return {name: model.holdout for name, model in performance.items()}


def _performance(
    inputs: StudyInputs, folder: Path, specs: dict[str, EnsembleSpec], holdout: HoldOut
) -> dict[str, Performance]:
    from rlvo.ensemble.build import validation_metrics
    from rlvo.ensemble.trials import read_trials
    from rlvo.report.tables import Performance

    fitted, predictions = baselines(inputs), read_trials(folder).predictions
    clinical = {
        name: Performance(fitted[name].validation_metrics(), figures) for name, figures in holdout.baselines.items()
    }
    ensembles = {
        name: Performance(validation_metrics(specs[name], predictions), figures)
        for name, figures in holdout.figures.items()
    }
    return {**clinical, **ensembles}


def _metrics(figures: Figures, opening: int) -> dict[str, float]:
    """`test/<metric>` for MLflow, and the count of openings beside them."""
    values = asdict(figures)
    low, high = values.pop("interval")
    return {f"test/{name}": value for name, value in {**values, "auc_low": low, "auc_high": high}.items()} | {
        "test/opening": float(opening)
    }
