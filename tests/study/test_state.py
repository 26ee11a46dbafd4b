"""One decision on the state of a trial, a configuration and a study."""

from collections.abc import Sequence
from typing import Any

import pytest
from support.study_on_disk import CTA, NCCT

from rlvo.config.model import Configuration
from rlvo.study.state import (
    ConfigurationState,
    State,
    StudyState,
    TrialState,
    combined_state,
    finished_configurations,
    trial_state,
)
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


def whole_of(configuration: Configuration, aucs: Sequence[float]) -> ConfigurationState:
    """It has finished on every fold."""
    trials = (trial_state(fold, record(fold, auc, configuration)) for fold, auc in enumerate(aucs))
    return of_folds(*trials, configuration=configuration)


def repeated(configuration: Configuration, number: int) -> Configuration:
    training = configuration.training.model_copy(update={"repeat": number})
    return configuration.model_copy(update={"training": training})


def test_a_lucky_repeat_is_not_the_best() -> None:
    """NCCT has the highest single mean, .9, and .7 over its repeats; CTA .75; the standard error is over folds."""
    lucky = [(NCCT, 2, (0.5, 0.7)), (NCCT, 0, (0.85, 0.95)), (NCCT, 1, (0.6, 0.6))]
    steady = [(CTA, 1, (0.7, 0.8)), (CTA, 2, (0.72, 0.78))]
    configurations = tuple(whole_of(repeated(each, n), aucs) for each, n, aucs in (*lucky, *steady))
    unfinished = of_folds(trial_state(0, record(0, 1.0)), TrialState(1), configuration=repeated(CTA, 3))
    state = StudyState("s", 6, 2, 60, (*configurations, unfinished))
    found = finished_configurations(state.configurations)
    assert [each.objective for each in found] == pytest.approx([0.75, 0.7])
    assert [repeat.key for repeat in found[1].repeats] == [repeated(NCCT, n).key for n in range(3)]
    assert found[1].standard_error == pytest.approx((0.75 - 0.65) / 2)
    best = state.best
    assert best is not None
    assert (best.key, best.label) == (repeated(CTA, 1).key, CTA.label)
    assert best.standard_error == pytest.approx((0.79 - 0.71) / 2)


def test_a_study_says_whether_its_trials_may_start_again() -> None:
    again = NCCT.model_copy(update={"training": NCCT.training.model_copy(update={"restarts": 1})})
    for configuration, may_restart in ((NCCT, False), (again, True)):
        state = StudyState("s", 1, 2, 60, (whole_of(configuration, (0.6, 0.7)),))
        assert state.may_restart == may_restart


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
    another = NCCT.model_copy(update={"training": NCCT.training.model_copy(update={"learning_rate": 0.1})})
    whole = [whole_of(each, aucs) for each, aucs in ((another, (0.6, 0.5)), (NCCT, (0.6, 0.7)), (CTA, (0.6, 0.7)))]
    assert whole[1].objective == pytest.approx(0.65)
    state = StudyState("s", 4, 2, 60, (half, *whole))
    assert state.best is not None
    assert state.best.repeats == (whole[1],)
    assert (state.best.key, state.best.label, state.best.objective) == (NCCT.key, NCCT.label, whole[1].objective)
    assert state.best.standard_error == whole[1].standard_error
    assert StudyState("s", 3, 2, 60, (half,)).best is None
