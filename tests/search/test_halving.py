"""Who goes on: by hand on a few configurations, and whole searches on the planted problem."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from planted import EPOCHS, FOLDS, PRUNING, PlantedTrials, full_grid, planted_study, search

from rlvo.config.loading import parse_study
from rlvo.config.study import SearchConfig, StudyConfig
from rlvo.errors import RlvoError
from rlvo.search.halving import Climber, Rung, epochs_to_train, judge, ladder, objective_at
from rlvo.search.plan import plan_study
from rlvo.search.proposals import Proposals
from rlvo.search.results import SearchResult

RUNGS = (Rung(1, 10), Rung(1, 20), Rung(4, 20))
FULL = 72 * FOLDS * EPOCHS
"""Epochs of the planted problem's whole grid."""


def rungs_of(climbers: list[Climber]) -> dict[str, int | str]:
    verdicts = judge(climbers, RUNGS, 2)
    return {key: "pruned" if verdict.pruned else verdict.rung for key, verdict in verdicts.items()}


def ended(result: SearchResult) -> dict[str, tuple[str, float | None]]:
    return {each.configuration.key: (each.state, each.auc) for each in result.configurations}


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        ({"pruning": "none"}, [(4, 60)]),
        ({"pruning": "halving", "min_epochs": 10, "first_folds": 2}, [(2, 10), (2, 20), (2, 40), (2, 60), (4, 60)]),
        ({"pruning": "halving", "min_epochs": 60, "first_folds": 1}, [(1, 60), (4, 60)]),
        ({"pruning": "halving", "min_epochs": 7, "reduction_factor": 3, "first_folds": 4}, [(4, 7), (4, 21), (4, 60)]),
    ],
)
def test_the_ladder_has_more_epochs_first_and_more_folds_last(settings: dict, rungs: list[tuple[int, int]]) -> None:
    assert [(rung.folds, rung.epochs) for rung in ladder(SearchConfig(**settings), 4, 60)] == rungs


def test_the_objective_at_a_rung_is_the_one_training_would_have_ended_with() -> None:
    first = [{"val/loss": 0.5, "val/auc": 0.6}, {"val/loss": 0.4, "val/auc": 0.8}, {"val/loss": 0.45, "val/auc": 0.9}]
    second = [{"val/loss": 0.3, "val/auc": 0.7}, {"val/loss": 0.3, "val/auc": 0.9}]
    assert objective_at(Rung(1, 3), {0: first}) == pytest.approx(0.8)
    assert objective_at(Rung(2, 2), {0: first, 1: second}) == pytest.approx(0.75)
    assert objective_at(Rung(2, 3), {0: first, 1: second}) is None
    assert objective_at(Rung(2, 1), {0: first}) is None
    assert objective_at(Rung(1, 1), {0: [{"val/loss": 0.5}]}) == -math.inf


def test_the_epochs_of_a_comparison_are_what_each_rung_adds() -> None:
    assert epochs_to_train(RUNGS, 5, 2) == 5 * 10 + 3 * 10 + 2 * 60
    assert epochs_to_train(RUNGS[-1:], 5, 2) == 5 * 80


def test_a_verdict_waits_until_nothing_to_come_can_change_it() -> None:
    a, b, c, d = (Climber(key, (value,)) for key, value in zip("abcd", (0.9, 0.8, 0.7, 0.6), strict=True))
    on_the_way = [Climber(key, ()) for key in "bcd"]
    assert rungs_of([a, *on_the_way]) == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert rungs_of([a, b, *on_the_way[1:]]) == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert rungs_of([a, b, c, on_the_way[2]]) == {"a": 1, "b": 0, "c": "pruned", "d": 0}
    assert rungs_of([a, b, c, d]) == {"a": 1, "b": 1, "c": "pruned", "d": "pruned"}


def test_of_equals_the_first_goes_on_and_undefined_comes_last() -> None:
    assert rungs_of([Climber("a", (0.5,)), Climber("b", (0.5,))]) == {"a": 1, "b": "pruned"}
    assert rungs_of([Climber("a", (-math.inf,)), Climber("b", (0.1,))]) == {"a": "pruned", "b": 1}


def test_a_failure_makes_room() -> None:
    failed = Climber("a", (), has_ended=True)
    assert rungs_of([failed, Climber("b", (0.5,))])["b"] == 1


def test_who_went_on_before_goes_on_and_who_was_pruned_stays_out_when_others_join() -> None:
    before = [Climber("a", (0.5, 0.5), passed=2), Climber("b", (0.4,), has_ended=True, is_pruned=True)]
    joined = [Climber(key, (0.6,)) for key in "cd"]
    assert rungs_of(before + joined) == {"a": 1, "b": 0, "c": 1, "d": 1} | {"a": 2}
    worse = [Climber(key, (0.1,)) for key in "cdef"]
    assert rungs_of(before + worse)["c"] == 1  # room for three: a, b, and the first of the others
    assert rungs_of(before + worse)["d"] == "pruned"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_grids_best_is_found_within_a_percent_in_a_third_of_its_epochs(seed: int, quick_folder: Path) -> None:
    trials = PlantedTrials(seed)
    result = search(planted_study(**PRUNING), trials, quick_folder)
    assert result.best is not None
    assert result.best.auc is not None
    assert result.best.auc >= 0.99 * max(full_grid(seed).values())
    assert trials.trained <= FULL / 3


@pytest.mark.slow
def test_the_survivors_depend_on_no_order_no_number_of_workers_and_no_death(quick_folder: Path) -> None:
    study, runs = planted_study(**PRUNING), []
    for number, (workers, order, deaths) in enumerate([(1, 0, 0.0), (5, 1, 0.0), (3, 2, 0.05)]):
        trials = PlantedTrials(0)
        result = search(study, trials, quick_folder / str(number), workers=workers, order=order, deaths=deaths)
        runs.append((ended(result), trials.trained, {key: record.status for key, record in trials.records.items()}))
    assert runs[0] == runs[1] == runs[2]
    assert set(runs[0][2].values()) == {"finished", "pruned"}


@pytest.mark.slow
def test_every_modality_keeps_a_finished_configuration_and_optuna_knows_the_others_as_pruned(
    quick_folder: Path,
) -> None:
    trials = PlantedTrials(1)
    result = search(planted_study(**PRUNING), trials, quick_folder)
    finished = [each for each in result.configurations if each.state == "finished"]
    assert {each.configuration.model.modality for each in finished} == {"NCCT", "CTA", "BOTH"}
    assert {each.state for each in result.configurations} == {"finished", "pruned"}
    storage = JournalStorage(JournalFileBackend(str(quick_folder / "optuna.journal")))
    known = optuna.load_study(study_name="planted", storage=storage).trials
    assert [trial.state == TrialState.COMPLETE for trial in known] == [
        each.state == "finished" for each in result.configurations
    ]
    for trial, each in zip(known, result.configurations, strict=True):
        assert {10} <= set(trial.intermediate_values) <= set(range(1, EPOCHS + 1))
        if trial.state == TrialState.PRUNED:
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
            assert "went on and were better" in next(iter(each.prunings.values()))


@pytest.mark.slow
def test_a_finished_search_can_be_extended_and_nothing_is_trained_twice(quick_folder: Path) -> None:
    trials = PlantedTrials(2)
    first = ended(search(planted_study(configurations=24, **PRUNING), trials, quick_folder))
    trained, study = trials.trained, planted_study(**PRUNING)
    second = ended(search(study, trials, quick_folder))
    assert {key: second[key] for key in first} == first
    assert len(second) == 72
    assert trials.trained > trained
    assert ended(search(study, trials, quick_folder)) == second
    assert trials.trained == sum(len(history) for history in trials.history.values())


@pytest.mark.slow
@pytest.mark.parametrize("search_settings", [{}, {"bracket": 24}, {"first_folds": 2, "reduction_factor": 3}])
def test_the_plan_knows_how_many_epochs_a_search_trains(search_settings: dict, quick_folder: Path) -> None:
    study, trials = planted_study(**(PRUNING | search_settings)), PlantedTrials(4)
    search(study, trials, quick_folder)
    assert trials.trained == plan_study(study).expected_epochs


@pytest.mark.slow
def test_brackets_are_compared_apart_so_that_the_sampler_learns_from_the_first(quick_folder: Path) -> None:
    study = planted_study(sampler="random", configurations=24, bracket=12, compare_within=[], **PRUNING)
    result = search(study, PlantedTrials(3), quick_folder)
    proposals = Proposals(study, quick_folder).earlier()
    keys = list(dict.fromkeys(proposal.configuration.key for proposal in proposals[:12]))
    states = ended(result)
    assert sum(states[key][0] == "finished" for key in keys) == 1
    assert any(state == "finished" for key, (state, _) in states.items() if key not in keys)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"space": {"enumerate": {"training.epochs": [10, 20]}}}, "training.epochs cannot be an axis"),
        ({"search": {"pruning": "halving", "first_folds": 5}}, "there are 4 folds"),
        ({"search": {"pruning": "halving", "min_epochs": 61}}, "a trial has 60 epochs"),
        ({"search": {"compare_within": ["model.modalty"]}}, "did you mean 'model.modality'?"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused(sections: dict, told: str) -> None:
    with pytest.raises(RlvoError, match=r"study\.yaml") as refusal:
        parse_study({"name": "s", "search": {"pruning": "halving"}} | sections, where="study.yaml")
    assert told in str(refusal.value)
    assert isinstance(parse_study({"name": "s", "search": {"pruning": "halving"}}), StudyConfig)
