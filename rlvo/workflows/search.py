"""Searching: what a study would run, and running it while its records are carried into MLflow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlvo.cohort.encoding import unfitted_encoder
from rlvo.cohort.pseudonym import cohort_key, pseudonym
from rlvo.cohort.reading import read_cohort
from rlvo.cohort.splits import Split, make_split, read_split
from rlvo.cohort.tables import read_table
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError
from rlvo.evaluation.power import auc_power
from rlvo.progress import ShowProgress, no_progress
from rlvo.search.calibration import Measured, measure_models
from rlvo.search.plan import StudyPlan, plan_study
from rlvo.search.verdict import Verdict, judge
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.openings import Openings
from rlvo.study.pretrained import check_pretrained
from rlvo.study.specs import Spec
from rlvo.study.state import ENDED, StudyState

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.study.inputs import StudyInputs
    from rlvo.workflows.study import OpenStudy

ShowState = Callable[["StudyInputs"], AbstractContextManager[Callable[[StudyState], None]]]
"""Takes what trials are trained on, and gives a context whose value is called with the study's state as it changes."""


def plan(
    config: StudyConfig,
    cohort: Path | None = None,
    work: Workdir | None = None,
    *,
    file: Path | None = None,
    measure: bool = False,
    progress: ShowProgress = no_progress,
) -> tuple[StudyPlan, Verdict]:
    """What a study would run, without running it, and whether it fits this machine.

    Args:
        cohort: its table, to plan the disk for its patients and to say what its hold-out can show; None: the
            configuration's, if it names one.
        work: the work folder, whose trials tell how long others take; None: the default one.
        file: the study's, for a command that is proposed.
        measure: run each network for some seconds, to foretell hours, energy and memory.
        progress: shows how many models have been costed, and how many measured.
    """
    work = work or Workdir.at(Path(DEFAULT), create=False)
    table, notes = cohort or config.cohort.table, tuple[str, ...]()
    patients = holdout = development = None
    if table is not None:
        raw = read_table(table, config.cohort.columns, own=config.cohort.own)
        patients, notes = len(raw.cells), raw.notes
        try:
            label, split = _labelled_split(config, table, work)
        except RlvoError as error:  # the table is not sound yet, or cannot be split
            notes += (f"what the hold-out can show is not known: {_first_line(error)}",)
        else:
            holdout = auc_power(len(split.test), int(label[list(split.test)].sum()))
            development = len(split.development)
    with progress("models") as advance:
        planned = plan_study(config, patients=patients, holdout=holdout, advance=advance)

    def measured(config: StudyConfig, at_once: int) -> dict[Spec, Measured | str]:
        encoder = unfitted_encoder(config.cohort)
        with progress("measuring networks") as advance:
            return measure_models(config, at_once, encoder, advance)

    timed = measured if measure else None
    notes += tuple(f"pretrained weights: {line}" for line in check_pretrained(config, work))
    verdict = judge(config, planned, work, file=file, cohort=cohort, development=development, measure=timed)
    return replace(planned, notes=notes), verdict


def _labelled_split(config: StudyConfig, table: Path, work: Workdir) -> tuple[pd.Series, Split]:
    """Each patient's label, and the split the study would have. Raises RlvoError if there is none yet."""
    cohort = read_cohort(table, config.cohort.names, config.cohort.own, mapping=config.cohort.columns)
    if config.folds.of_study is None:
        return cohort.label, make_split(cohort.label, config.folds, cohort.included)
    split = read_split(StudyFolder(work.study(config.folds.of_study)).split)
    if strangers := {*split.test, *split.development} - {*cohort.label.index}:
        raise RlvoError(f"{len(strangers)} patients of study {config.folds.of_study} are not in the table", where=table)
    return cohort.label, split


def _first_line(error: RlvoError) -> str:
    return str(error).split("\n")[0]


def with_configurations(config: StudyConfig, configurations: int) -> StudyConfig:
    """The study with another number of configurations. Raises RlvoError if its grid has fewer points."""
    search = config.search.model_copy(update={"configurations": configurations})
    config = config.model_copy(update={"search": search})
    if config.configurations < configurations:
        raise RlvoError(
            f"the grid has {config.configurations} points, not {configurations}",
            where="--configurations",
            fix="Add values to the space under another study name, or sample it: search.sampler tpe",
        )
    return config


def search(
    config: StudyConfig,
    cohort: Path | None,
    work: Workdir,
    *,
    address: str | None = None,
    progress: ShowProgress = no_progress,
    show_state: ShowState | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> tuple[OpenStudy, StudyState]:
    """Open a study and train what of it has not been trained yet; run again after any interruption, it continues.

    Args:
        cohort: its table; None: the configuration's.
        address: Ray cluster; None: `RAY_ADDRESS`, or else this machine.
        progress: shows how far the preparation of volumes is, and how many trials have ended.
        show_state: shows instead where the search stands, at least every second while trials run.
        warn: told, before anything is trained, what makes the study's figures doubtful.

    Raises:
        RlvoError: no cohort is named, it or the configuration is at fault, or another search is at work on the study.
        MachineError: the machine cannot run the trials.
    """
    from rlvo.search.execute import run_search  # Ray, MLflow and SimpleITK, which planning does without
    from rlvo.search.preflight import check_start, has_ended, study_lock
    from rlvo.study.inputs import open_study, settle
    from rlvo.study.unlabelled import refuse_seen
    from rlvo.tracking.mirror import Mirror
    from rlvo.workflows.study import OpenStudy, tracking_of

    table = cohort or config.cohort.table
    if table is None:
        fix = "Give it (--cohort), or set cohort.table in the configuration"
        raise RlvoError("no cohort table is named", where=config.name, fix=fix)
    folder = StudyFolder(Workdir.at(work.path).study(config.name))
    with study_lock(folder) as heartbeat:
        config = settle(config, folder)
        reserved = check_start(config, folder, address, warn)
        if trouble := tracking_of(work, config).trouble(config.name):
            warn(f"the search goes on, and MLflow gets everything once it can: {trouble}")
        trains = config.model.pretrained.use and not has_ended(config, folder)
        pretrained = check_pretrained(config, work, keep=True) if trains else ()
        inputs = open_study(config, table, work, progress=progress, reserved=reserved)
        inputs = replace(inputs, pretrained=pretrained)
        if trains:
            refuse_seen(config, work, inputs)
        opened = OpenStudy(read_config(folder), work, inputs)
        if warning := opened_among_training(inputs, work):
            warn(warning)
        pseudonymise = partial(pseudonym, key=cohort_key(inputs.cohort_folder))
        shown = show_state(inputs) if show_state else _count_trials(progress)
        with Mirror(config, folder, opened.tracking, pseudonymise), shown as on_state:

            def told(state: StudyState) -> None:
                heartbeat.check()
                on_state(state)

            return opened, run_search(config, inputs, folder, on_state=told, address=address)


def opened_among_training(inputs: StudyInputs, work: Workdir) -> str | None:
    """A warning if development patients were in a hold-out that was opened: choices made then may suit them."""
    development = inputs.split.development
    try:
        earlier = Openings(work.path).earlier(inputs.marks(development))
    except RlvoError as error:
        return f"whether development patients were in a hold-out that was opened is unknown: {error}"
    if not earlier.openings:
        return None
    last = earlier.openings[-1]
    return (
        f"{len(earlier.patients)} of {len(development)} development patients were in a hold-out that was opened "
        f"({last.time}, study {last.study}): whatever was chosen after it may suit them, so validation figures are "
        "optimistic"
    )


@contextmanager
def _count_trials(progress: ShowProgress) -> Iterator[Callable[[StudyState], None]]:
    with progress("trials") as advance:
        yield lambda state: advance(state.count(*ENDED), state.trials_total)
