"""What Optuna keeps of a search, read again: its proposals in order, and which hyperparameters mattered."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import TrialState

from rlvo.config.study import StudyConfig
from rlvo.search.proposals import database_errors, load_optuna
from rlvo.study.folder import StudyFolder

EVALUATORS: dict[str, Callable[[], BaseImportanceEvaluator]] = {
    "fANOVA": lambda: FanovaImportanceEvaluator(seed=0),
    "PED-ANOVA": PedAnovaImportanceEvaluator,
    "mean decrease in impurity": lambda: MeanDecreaseImpurityImportanceEvaluator(seed=0),
}
"""Optuna's own."""
FEWEST = 3
"""Finished configurations, from which on importance is told."""
SLOW, MOST = "fANOVA", 300
"""Its cost grows with the square of the finished configurations: with more than so many, it is left out."""
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, eq=False)
class SearchHistory:
    """The configurations a search proposed."""

    proposals: pd.DataFrame
    """One row each, in order: `number`, `state`, `objective` (NaN unless finished), and a column for every axis of the
    search space, by dotted path; empty where the axis does not matter to the configuration."""
    importance: pd.DataFrame
    """One row per hyperparameter that all finished configurations have and that varies among them: `parameter`, and its
    share of importance by each evaluator of EVALUATORS; no row if there is too little to compare."""


def read_history(config: StudyConfig, study: StudyFolder) -> SearchHistory | None:
    """Read the search's proposals, and write nothing; None if Optuna kept none in the study's folder or its database.

    Raises:
        RlvoError: the journal is damaged.
        MachineError: the database does not answer.
    """
    found = load_optuna(config, study)
    if found is None:
        return None
    with database_errors():
        trials = found.get_trials(deepcopy=False)
        rows = [
            {
                "number": trial.number,
                "state": STATES[trial.state],
                "objective": trial.value if trial.state == TrialState.COMPLETE else float("nan"),
                **trial.params,
            }
            for trial in trials
        ]
        if not rows:
            return None
        return SearchHistory(pd.DataFrame(rows), _importance(found))


def _importance(study: optuna.Study) -> pd.DataFrame:
    columns = {}
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(values) < FEWEST or len(set(values)) == 1:
        return pd.DataFrame({"parameter": []})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, make in EVALUATORS.items():
            if name == SLOW and len(values) > MOST:
                continue
            try:
                columns[name] = get_param_importances(study, evaluator=make())
            except (ValueError, RuntimeError):  # no hyperparameter varies, or all of them explain nothing
                continue
    table = pd.DataFrame(columns).rename_axis("parameter").reset_index()
    return table.sort_values(next(iter(columns)), ascending=False, ignore_index=True) if len(table) else table
