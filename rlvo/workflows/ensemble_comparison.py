"""The ways to combine a study's trials side by side."""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.config.base import content_hash
from rlvo.config.loading import named_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.calibration import within_class_variance
from rlvo.ensemble.comparison import compare_ensembles, every_way, nested_margins, simulate_votes
from rlvo.ensemble.fitting import Validation, networks_alone
from rlvo.errors import RlvoError, get_logger
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.trials import read_ended_trials
from rlvo.workflows.disagreement import read_disagreements
from rlvo.workflows.ensemble import declare, finishing
from rlvo.workflows.study import knows_linear_image, read_study, usable_settings

logger = get_logger(__name__)

ASSUMED = 0.6
"""Correlation of two folds' margins if it was not measured."""


def compare(study: str | Path | StudyConfig, work: Workdir) -> tuple[str, pd.DataFrame]:
    """Every selection, weighting and scale side by side, without and with the table's model, on out-of-fold patients.

    The study's own way also without and with the linear models of the volumes, if they were fitted (`rlvo ensemble`).
    Nothing is written or registered.

    Returns:
        The study's name and the columns of `rlvo.ensemble.comparison.compare_ensembles`, one row each for the
        optimistic and the nested estimate.
    """
    name, _ = named_study(study)
    folder = StudyFolder(work.study(name))
    settings, trials = read_config(folder).ensemble, read_ended_trials(folder)
    try:
        read = read_study(study, work)
        trials = read.ended_trials()
        ways = every_way(read.usable_settings(trials))
    except RlvoError as error:
        logger.warning("compared without the models of the table and of the volumes, which cannot be read: %s", error)
        ways = [way for way in every_way(networks_alone(settings)) if way.table_member == "none"]
    if not knows_linear_image(trials):
        ways = [way for way in ways if way.linear_image == "none"]
    with finishing(folder):
        return name, compare_ensembles(trials.records, trials.predictions, ways)


@dataclass(frozen=True, eq=False)
class TieRules:
    """What each rule for ties is worth to a study's ensemble, by simulation."""

    correlation: float
    """Of two folds' margins within a class."""
    is_measured: bool
    """Whether the correlation is that of the study's own ensemble, or assumed."""
    votes: pd.DataFrame
    """As from `rlvo.ensemble.comparison.simulate_votes`."""


def compare_tie_rules(study: str | Path | StudyConfig, work: Workdir) -> TieRules:
    """Simulate the vote of a study's ensemble under each rule for ties.

    The folds' correlation is known once the ensemble was built (`rlvo ensemble`); before, it is taken to be ASSUMED.
    """
    folder = StudyFolder(work.study(named_study(study)[0]))
    config, trials = read_config(folder), read_ended_trials(folder)
    settings = config.ensemble
    if settings != networks_alone(settings):
        trials = read_study(study, work).ended_trials()
        settings = usable_settings(settings, trials)
        config = config.model_copy(update={"ensemble": settings})
    validation = Validation.of(trials.predictions, settings)
    spec = declare(folder, config, trials, partial=True)[STUDY_ENSEMBLE]
    scored = nested_margins(trials.records, validation, settings.selection, settings.weighting)
    spread = read_disagreements(folder).get(content_hash(spec))
    variance = within_class_variance(scored["fold"], scored["label"], scored["score"])
    is_measured = spread is not None and math.isfinite(spread) and variance > 0
    correlation = min(max(1 - spread / variance, 0.0), 1.0) if is_measured and spread is not None else ASSUMED
    return TieRules(correlation, is_measured, simulate_votes(scored, len(spec.folds), correlation))
