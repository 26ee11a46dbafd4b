"""Who continues: by hand on a few configurations, and whole searches on the planted problem."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from support.planted import EPOCHS, FOLDS, PRUNING, PlantedTrials, full_grid, optuna_trials, planted_study, search

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.sections import SearchConfig
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.search.bracket import Bracket, Verdict
from rlvo.search.halving import Rung, epochs_to_train, ladder, objective_at
from rlvo.search.plan import plan_study
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.study.folder import StudyFolder
from rlvo.study.state import StudyState

RUNGS = (Rung(1, 10), Rung(1, 20), Rung(4, 20))
FULL = 72 * FOLDS * EPOCHS
"""Epochs of the planted problem's whole grid."""


@dataclass
class Climber:
    """A configuration whose climb the test decides."""

    key: str
    values: tuple[float, ...] = ()
    passed: int = 0
    has_ended: bool = False
    is_pruned: bool = False


@pytest.fixture
def study(quick_folder: Path) -> StudyFolder:
    return StudyFolder(quick_folder)


def rungs_of(climbers: Sequence[Climber]) -> dict[str, int | str]:
    verdicts = Bracket(climbers, RUNGS, 2).judge()
    return {key: "pruned" if verdict.pruned else verdict.rung for key, verdict in verdicts.items()}


def ended(state: StudyState) -> dict[str, tuple[str, float | None]]:
    return {each.key: (each.state, each.objective) for each in state.configurations}


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        ({"pruning": "none"}, [(4, 60)]),
        ({"pruning": "halving", "min_epochs": 10, "first_folds": 2}, [(2, 10), (2, 20), (2, 40), (2, 60), (4, 60)]),
        ({"pruning": "halving", "min_epochs": 60, "first_folds": 1}, [(1, 60), (4, 60)]),
        ({"pruning": "halving", "min_epochs": 7, "reduction_factor": 3, "first_folds": 4}, [(4, 7), (4, 21), (4, 60)]),
    ],
)
def test_the_ladder_has_more_epochs_first_and_more_folds_last(
    settings: dict[str, Any], rungs: list[tuple[int, int]]
) -> None:
    assert [(rung.folds, rung.epochs) for rung in ladder(SearchConfig(**settings), 4, 60)] == rungs


def test_the_objective_at_a_rung_is_the_one_training_would_have_ended_with() -> None:
    first = [{"val/loss": 0.5, "val/auc": 0.6}, {"val/loss": 0.4, "val/auc": 0.8}, {"val/loss": 0.45, "val/auc": 0.9}]
    second = [{"val/loss": 0.3, "val/auc": 0.7}, {"val/loss": 0.3, "val/auc": 0.9}]
    assert objective_at(Rung(1, 3), [first]) == pytest.approx(0.8)
    assert objective_at(Rung(2, 2), [first, second]) == pytest.approx(0.75)
    assert objective_at(Rung(2, 3), [first, second]) is None
    assert objective_at(Rung(2, 1), [first, []]) is None
    assert objective_at(Rung(1, 1), [[{"val/loss": 0.5}]]) == -math.inf


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


def test_of_equals_the_first_continues_and_undefined_comes_last() -> None:
    assert rungs_of([Climber("a", (0.5,)), Climber("b", (0.5,))]) == {"a": 1, "b": "pruned"}
    assert rungs_of([Climber("a", (-math.inf,)), Climber("b", (0.1,))]) == {"a": "pruned", "b": 1}


def test_a_failure_makes_room() -> None:
    failed = Climber("a", (), has_ended=True)
    assert rungs_of([failed, Climber("b", (0.5,))])["b"] == 1


def test_those_let_past_continue_and_the_pruned_stay_out_when_others_join() -> None:
    before = [Climber("a", (0.5, 0.5), passed=2), Climber("b", (0.4,), has_ended=True, is_pruned=True)]
    joined = [Climber(key, (0.6,)) for key in "cd"]
    assert rungs_of(before + joined) == {"a": 1, "b": 0, "c": 1, "d": 1} | {"a": 2}
    worse = [Climber(key, (0.1,)) for key in "cdef"]
    assert rungs_of(before + worse)["c"] == 1  # room for three: a, b, and the first of the others
    assert rungs_of(before + worse)["d"] == "pruned"


@pytest.mark.parametrize("seed", range(20))
def test_an_update_says_what_judging_everyone_again_would(seed: int) -> None:
    draw = random.Random(seed)
    climbers = [Climber(f"{number:02}") for number in range(draw.randint(1, 14))]
    for climber in climbers:  # some come from an earlier process
        if draw.random() < 0.3:
            climber.values = tuple(draw.randint(0, 4) / 4 for _ in range(draw.randint(0, 2)))
            climber.passed = draw.randint(0, len(climber.values))
            climber.has_ended = climber.is_pruned = len(climber.values) > climber.passed and draw.random() < 0.5
    factor = draw.randint(2, 3)
    bracket = Bracket([], RUNGS, factor)
    for number, climber in enumerate(climbers):  # some have news while others are still proposed
        bracket.add(climber)
        if number and draw.random() < 0.5:
            early = draw.choice(climbers[: number + 1])
            early.has_ended = early.has_ended or draw.random() < 0.1
            early.values = early.values or (draw.randint(0, 4) / 4,)
            assert bracket.update(early) == {}

    def new(verdicts: dict[str, Verdict]) -> list[tuple[Climber, Verdict]]:
        """What the searcher would do."""
        open_to = [(each, verdicts[each.key]) for each in climbers if each.key in verdicts and not each.has_ended]
        return [(each, verdict) for each, verdict in open_to if verdict.pruned or verdict.rung > each.passed]

    verdicts = new(bracket.judge())
    assert verdicts == new(Bracket(climbers, RUNGS, factor).judge())
    for _ in range(60):
        for climber, verdict in verdicts:
            climber.passed = max(climber.passed, verdict.rung)
            climber.has_ended = climber.is_pruned = verdict.pruned is not None
        climber = draw.choice(climbers)
        if draw.random() < 0.1:
            climber.has_ended = True  # a fold failed
        elif len(climber.values) <= climber.passed < len(RUNGS) - 1 or draw.random() < 0.05:
            climber.values = (*climber.values, draw.randint(0, 4) / 4)[: len(RUNGS) - 1]
        verdicts = new(bracket.update(climber))
        assert verdicts == new(Bracket(climbers, RUNGS, factor).judge())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_of_every_modality_one_finishes_and_the_grids_best_is_found_within_a_percent_in_a_third_of_its_epochs(
    seed: int, study: StudyFolder
) -> None:
    config, trials = planted_study(**PRUNING), PlantedTrials(seed)
    result = search(config, trials, study)
    assert result.best is not None
    assert result.best.objective is not None
    assert result.best.objective >= 0.99 * max(full_grid(seed).values())
    assert trials.trained == plan_study(config).expected_epochs <= FULL / 3
    finished = [each for each in result.configurations if each.state == "finished"]
    assert {each.configuration.model.modality for each in finished if each.configuration} == {"NCCT", "CTA", "BOTH"}
    assert {each.state for each in result.configurations} == {"finished", "pruned"}
    for trial, each in zip(optuna_trials(study, "planted"), result.configurations, strict=True):
        assert {10} <= set(trial.intermediate_values) <= set(range(1, EPOCHS + 1))
        assert (trial.state == TrialState.COMPLETE) == (each.state == "finished")
        if trial.state == TrialState.PRUNED:
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
            assert "went on and were better" in next(iter(each.reasons("pruned").values()))


@pytest.mark.slow
def test_the_survivors_depend_on_no_order_no_number_of_workers_and_no_death(study: StudyFolder) -> None:
    config, runs = planted_study(**PRUNING), []
    for number, (workers, order, deaths) in enumerate([(1, 0, 0.0), (5, 1, 0.0), (3, 2, 0.05)]):
        trials = PlantedTrials(0)
        place = StudyFolder(study.path / str(number))
        result = search(config, trials, place, workers=workers, order=order, deaths=deaths)
        runs.append((ended(result), trials.trained, {key: record.status for key, record in trials.records.items()}))
    assert runs[0] == runs[1] == runs[2]
    assert set(runs[0][2].values()) == {"finished", "pruned"}


@pytest.mark.slow
def test_what_a_complete_bracket_condemns_is_pruned_by_one_event_each(study: StudyFolder) -> None:
    """Half of a search's configurations at once would hold up those that train: pruning writes to disk."""
    by_event = [set[str]()]

    class Counting(FoldSearcher):
        def __getattribute__(self, name: str) -> Any:
            if name in ("suggest", "on_trial_result", "on_trial_complete"):
                by_event.append(set())
            return super().__getattribute__(name)

    class Noting(PlantedTrials):
        def prune(self, key: str, fold: int, configuration: Configuration, reason: str) -> None:
            by_event[-1].add(key)
            super().prune(key, fold, configuration, reason)

    trials = Noting(0)
    state = search(planted_study(**PRUNING), trials, study, workers=4, searcher=Counting)
    pruned = {each.key for each in state.configurations if each.state == "pruned"}
    assert set().union(*by_event) == pruned
    assert max(map(len, by_event)) == 1
    assert {trial.state.name for trial in optuna_trials(study, "planted")} == {"COMPLETE", "PRUNED"}


def test_a_finished_search_can_be_extended_and_nothing_is_trained_twice(study: StudyFolder) -> None:
    trials = PlantedTrials(2)
    first = ended(search(planted_study(configurations=24, **PRUNING), trials, study))
    trained, config = trials.trained, planted_study(**PRUNING)
    second = ended(search(config, trials, study))
    assert {key: second[key] for key in first} == first
    assert len(second) == 72
    assert trials.trained > trained
    assert ended(search(config, trials, study)) == second
    assert trials.trained == sum(len(history) for history in trials.history.values())


@pytest.mark.slow
@pytest.mark.parametrize("search_settings", [{"bracket": 24}, {"first_folds": 2, "reduction_factor": 3}])
def test_the_plan_knows_how_many_epochs_other_searches_train(
    search_settings: dict[str, Any], study: StudyFolder
) -> None:
    config, trials = planted_study(**(PRUNING | search_settings)), PlantedTrials(4)
    search(config, trials, study)
    assert trials.trained == plan_study(config).expected_epochs


@pytest.mark.slow
def test_brackets_are_compared_apart_so_that_the_sampler_learns_from_the_first(study: StudyFolder) -> None:
    config = planted_study(sampler="random", configurations=24, bracket=12, compare_within=[], **PRUNING)
    result = search(config, PlantedTrials(3), study)
    proposals = Proposals(config, study).earlier()
    keys = list(dict.fromkeys(proposal.key for proposal in proposals[:12]))
    states = ended(result)
    assert sum(states[key][0] == "finished" for key in keys) == 1
    assert any(state == "finished" for key, (state, _) in states.items() if key not in keys)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"space": {"enumerate": {"training.epochs": [10, 20]}}}, "training.epochs cannot be an axis"),
        ({"search": {"pruning": "halving", "first_folds": 5}}, "there are only 4 folds"),
        ({"search": {"pruning": "halving", "min_epochs": 61}}, "a trial has only 60 epochs"),
        ({"search": {"compare_within": ["model.modalty"]}}, "did you mean 'model.modality'?"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused(sections: dict, message: str) -> None:
    with pytest.raises(RlvoError, match=r"study\.yaml") as refusal:
        parse_study({"name": "s", "search": {"pruning": "halving"}} | sections, where="study.yaml")
    assert message in str(refusal.value)
    assert isinstance(parse_study({"name": "s", "search": {"pruning": "halving"}}), StudyConfig)
