"""Models A, B and C of a study (section 3.2): variables chosen on validation patients, both smaller models trained.

Model A is the study's own ensemble. Model B is its configurations without the least predictive variables. Model C is
Model B trained on more patients, too: those whom the study excluded only for want of these variables.
"""

import math
import warnings
from collections.abc import Callable, Sequence

from rlvo.cohort.reading import read_cohort
from rlvo.cohort.splits import take_over
from rlvo.config.study import StudyConfig
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.explain.weakest import NAMED, check_droppable, weakest
from rlvo.progress import ShowProgress, no_progress
from rlvo.study.ablation import AblationPlan, Drop, read_plan, reduced_study, write_plan
from rlvo.study.folder import StudyFolder, read_config, read_declared
from rlvo.workflows.ablation_results import AblationResults, read_ablation
from rlvo.workflows.ensemble import freeze_ensembles
from rlvo.workflows.evaluate import check_may_open, evaluate_together
from rlvo.workflows.importance import variable_importance
from rlvo.workflows.search import ShowState, search
from rlvo.workflows.study import OpenStudy


def ablate(
    study: OpenStudy,
    *,
    drop: Drop = None,
    evaluate: bool = False,
    reason: str | None = None,
    address: str | None = None,
    progress: ShowProgress = no_progress,
    show_state: ShowState | None = None,
    on_plan: Callable[[AblationPlan], None] = lambda plan: None,
    warn: Callable[[str], None] = warnings.warn,
) -> AblationResults:
    """Train and compare Models A, B and C; run again after any interruption, it continues.

    B and C are studies of the work folder (`rlvo.study.ablation`), whose ensembles are frozen but not registered.

    Args:
        study: its ensembles were built (`rlvo ensemble`).
        drop: as `ablation.drop` of the configuration, which it wins over.
        evaluate: whether to open the hold-out, once for all three.
        reason: why it is opened again; needed if it was opened before.
        address: Ray cluster, as for `search`.
        progress: shows how far the ranking, the preparation of volumes and the trials are.
        show_state: shows instead where each search stands.
        on_plan: told what is going to be trained.
        warn: told what makes figures doubtful.

    Raises:
        RlvoError: no ensemble was built, no variable can go, B and C were begun with other variables, trials failed, or
            the hold-out was opened before and no reason is given.
        MachineError: the machine cannot run the trials, or MLflow does not answer.
    """
    if evaluate:
        check_may_open(study, reason)  # before hours of work
    spec = read_declared(study.folder)[STUDY_ENSEMBLE]
    plan = _plan(study, spec, drop, progress)
    on_plan(plan)
    models = [study]
    for letter, name in plan.models.items():
        config = _reduced(study, spec, plan, name, train_others=letter == "C")
        table, is_built = study.config.cohort.table, _is_built(config, study)
        opened, _ = search(
            config, table, study.work, address=address, progress=progress, show_state=show_state, warn=warn
        )
        if not is_built:
            freeze_ensembles(opened, progress=progress)
        models.append(opened)
    if evaluate:
        evaluate_together(models, reason=reason, progress=progress)
    results = read_ablation(study)
    assert results is not None  # everything was just built
    return results


def _is_built(config: StudyConfig, study: OpenStudy) -> bool:
    """Whether a model's ensemble was frozen, which is done once all is trained, with the settings it has now."""
    folder = StudyFolder(study.work.study(config.name))
    return folder.declared.is_file() and read_config(folder).ensemble == config.ensemble


def _plan(study: OpenStudy, spec: EnsembleSpec, drop: Drop, progress: ShowProgress) -> AblationPlan:
    """What was decided before, if that is still what is asked for; else decide now, and freeze it."""
    asked = study.config.ablation.drop if drop is None else drop
    keys = tuple(dict.fromkeys(configuration.key for configuration in spec.configurations))
    earlier = read_plan(study.folder)
    if earlier is not None and earlier.configurations == keys and asked in (None, earlier.asked):
        return earlier
    name = study.config.name
    b, c = f"{name}-b", f"{name}-c"
    if begun := [each for each in (b, c) if StudyFolder(study.work.study(each)).config.is_file()]:
        ours = all(read_config(StudyFolder(study.work.study(each))).folds.of_study == name for each in begun)
        what = "were begun without other variables, or for another ensemble" if ours else "are other studies"
        fix = f"Move their folders out of {study.work.studies} to begin anew"
        raise RlvoError(f"{' and '.join(begun)} {what}", where=name, fix=fix)
    if not spec.reads_table:
        what = "no member of its ensemble reads the table: there are no variables to go without"
        raise RlvoError(what, where=name, fix="Search with fusion daft, film, concat or offset")
    predictors, ranking, perfusion = study.inputs.predictors, [], None
    if isinstance(asked, tuple):
        dropped, rule = check_droppable(asked, predictors), NAMED
    else:
        importance = variable_importance(study, progress=progress)
        dropped, rule = weakest(importance, asked)
        ranking = importance.table.reset_index().to_dict("records")
        perfusion = importance.perfusion if math.isfinite(importance.perfusion[0]) else None
    plan = AblationPlan(
        asked=asked,
        configurations=keys,
        dropped=dropped,
        rule=rule,
        ranking=tuple(ranking),
        perfusion=perfusion,
        recovered=len(_recovered(study, dropped)),
        b=b,
        c=c,
    )
    write_plan(study.folder, plan)
    return plan


def _reduced(study: OpenStudy, spec: EnsembleSpec, plan: AblationPlan, name: str, *, train_others: bool) -> StudyConfig:
    return reduced_study(study.config, name, plan.dropped, spec.configurations, train_others=train_others)


def _recovered(study: OpenStudy, dropped: Sequence[str]) -> tuple[str, ...]:
    """Whom Model C trains on besides."""
    table, inputs = study.config.cohort.table, study.inputs
    assert table is not None  # open_study writes it
    kept = [predictor for predictor in inputs.predictors if predictor not in dropped]
    cohort = read_cohort(table, inputs.predictors, inputs.own, mapping=inputs.cohort.columns).recovering(kept)
    split = take_over(inputs.split, cohort.label, cohort.included, train_others=True)
    return tuple(patient for patient in split.training_only if patient not in inputs.refused)
