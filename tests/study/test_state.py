"""One decision on the state of a trial, a configuration and a study."""

from typing import Any

import pytest
from support.study_on_disk import CTA, NCCT

from rlvo.config.model import Configuration
from rlvo.study.state import ConfigurationState, State, StudyState, TrialState, combined_state, trial_state
from rlvo.training.records import CompletionRecord, TrialIdentity


def record(fold: int, auc: float | None, configuration: Configuration = NCCT, **settings: Any) -> CompletionRecord:
    identity = TrialIdentity(
        study="s", configuration=configuration.key, fold=fold, split_hash="s" * 64, data_hash="d" * 64
    )
    metrics = {"val/loss": 0.5} | ({} if auc is None else {"val/auc": auc})
    content = {"status": "finished", "best_epoch": 1, "epochs": 4, "metrics": metrics, "seconds": 6.0} | settings
    return CompletionRecord(identity=identity, configuration=configuration, **content)


def of_folds(*trials: TrialState, configuration: Configuration = NCCT) -> ConfigurationState:
    return ConfigurationState.of(configuration.key, configuration, trials)


def test_the_record_decides_and_without_one_what_the_search_knows() -> None:
    epochs = [{"val/auc": 0.6}, {"val/auc": 0.7}]
    finished, undefined = record(1, 0.8), record(1, None)
    assert trial_state(1, finished, failure="its process died") == TrialState(1, "finished", 4, 0.8, None, finished)
    assert trial_state(1, undefined).state == "failed"
    assert trial_state(1, undefined).reason == "val/auc is undefined at the best epoch"
    assert trial_state(1, record(1, 0.8, status="pruned", reason="it fell behind")).reason == "it fell behind"
    assert trial_state(1, None, epochs, failure="its process died", pruning="it fell behind").state == "failed"
    assert trial_state(1, None, epochs, pruning="it fell behind") == TrialState(1, "pruned", 2, 0.7, "it fell behind")
    assert trial_state(1, None, epochs, unended="running") == TrialState(1, "running", 2, 0.7)
    assert trial_state(1) == TrialState(1)


@pytest.mark.parametrize(
    ("states", "combined"),
    [
        (("finished", "finished"), "finished"),
        (("finished", "waiting"), "waiting"),
        (("running", "waiting"), "running"),
        (("silent", "running"), "running"),
        (("damaged", "running"), "damaged"),
        (("pruned", "damaged"), "pruned"),
        (("skipped", "pruned", "failed"), "failed"),
    ],
)
def test_one_trial_decides_for_its_configuration(states: tuple[State, ...], combined: State) -> None:
    assert combined_state(states) == combined_state(reversed(states)) == combined


def test_waiting_trials_beside_a_failed_or_pruned_one_are_skipped() -> None:
    for ended in (TrialState(0, "failed"), TrialState(0, "pruned")):
        states = [trial.state for trial in of_folds(ended, TrialState(1), TrialState(2, "running")).trials]
        assert states == [ended.state, "skipped", "running"]


def test_an_objective_needs_every_fold_and_the_best_is_the_first_of_equals() -> None:
    half = of_folds(trial_state(0, record(0, 0.9)), TrialState(1))
    assert (half.auc, half.objective) == (0.9, None)
    whole = [
        of_folds(*(trial_state(k, record(k, auc, each)) for k, auc in enumerate(aucs)), configuration=each)
        for each, aucs in ((NCCT, (0.6, 0.5)), (NCCT, (0.6, 0.7)), (CTA, (0.6, 0.7)))
    ]
    assert whole[1].objective == pytest.approx(0.65)
    state = StudyState("s", 4, 2, 60, (half, *whole))
    assert state.best is whole[1]
    assert StudyState("s", 3, 2, 60, (half,)).best is None
