"""The time to go: of planted states against values computed by hand, and of planted searches against their own end."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.planted import EPOCHS, PRUNING, PlantedTrials, planted_study
from support.small_study import MakeStudy
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.search.forecast import TRIAL_SECONDS, read_forecast, seconds_to_go
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.study.folder import StudyFolder
from rlvo.study.specs import model_specs, spec_of
from rlvo.study.state import ConfigurationState, State, StudyState, TrialState
from rlvo.study.status import Note, write_note
from rlvo.training.energy import CPU
from rlvo.training.usage import SECONDS, USAGE, Pace

MODALITIES = {"enumerate": {"model.modality": ["NCCT", "BOTH"]}}
SLOW, QUICK = 3.0, 1.0
START = TRIAL_SECONDS


def before(config: StudyConfig) -> StudyState:
    """The state in which nothing was proposed yet."""
    return StudyState(config.name, config.configurations, config.folds.folds, config.training.epochs, ())


def paces(config: StudyConfig) -> dict[object, Pace]:
    """BOTH is slow, NCCT quick."""
    return {spec_of(each): Pace(SLOW if each.model.modality == "BOTH" else QUICK, 1.0) for each in model_specs(config)}


def seconds(config: StudyConfig, slots: int, state: StudyState | None = None) -> float:
    return seconds_to_go(config, state or before(config), paces(config), slots)  # type: ignore[arg-type]


def trials(config: StudyConfig, modality: str, *folds: tuple[State, int]) -> ConfigurationState:
    configuration = config.configuration({"model.modality": modality})
    states = [TrialState(fold, state, epoch) for fold, (state, epoch) in enumerate(folds)]
    return ConfigurationState.of(modality, configuration, states)


def test_a_grid_takes_its_epochs_at_the_pace_of_each_network(make_small: MakeStudy) -> None:
    config = make_small(space=MODALITIES, training={"epochs": 10, "batch_size": 4}, folds={"folds": 2})
    each = START + 1  # before the first epoch of a trial
    assert seconds(config, 1) == pytest.approx(2 * (10 * QUICK + each) + 2 * (10 * SLOW + each))
    assert seconds(config, 2) == pytest.approx(10 * QUICK + each + 10 * SLOW + each)
    assert seconds(config, 100) == pytest.approx(10 * SLOW + each), "no sooner than its longest trial"


def test_what_has_ended_or_trained_takes_no_time(make_small: MakeStudy) -> None:
    config = make_small(space=MODALITIES, training={"epochs": 10, "batch_size": 4}, folds={"folds": 2})
    running = trials(config, "NCCT", ("finished", 10), ("running", 4))
    waiting = trials(config, "BOTH", ("silent", 3), ("waiting", 0))
    state = replace(before(config), configurations=(waiting, running))
    again = 7 * SLOW + START + 1 + 10 * SLOW + START + 1  # a trial that continues starts again
    assert seconds(config, 1, state) == pytest.approx(6 * QUICK + again)
    failed = replace(state, configurations=(running, trials(config, "BOTH", ("failed", 3), ("waiting", 0))))
    assert seconds(config, 1, failed) == pytest.approx(6 * QUICK)


def test_a_trial_that_started_again_has_its_epochs_before_it(make_small: MakeStudy) -> None:
    training = {"epochs": 10, "batch_size": 4, "restarts": 2}
    config = make_small(space={"enumerate": {"model.modality": ["NCCT"]}}, training=training, folds={"folds": 2})

    def left(epoch: int) -> float:
        running = trials(config, "NCCT", ("finished", 10), ("running", epoch))
        return seconds(config, 1, replace(before(config), configurations=(running,)))

    assert [left(epoch) for epoch in (9, 10, 11, 20, 24)] == pytest.approx([QUICK, 0, 9 * QUICK, 0, 6 * QUICK])


def halving(make_small: MakeStudy, rates: Sequence[float] = (1e-3, 1e-4, 1e-5, 1e-6)) -> StudyConfig:
    """Four configurations: all train 2 epochs on fold 0, two of them 4, one of them all 8 on both folds."""
    return make_small(
        space={"enumerate": {"training.learning_rate": list(rates)}},
        training={"epochs": 8, "batch_size": 4},
        search={"pruning": "halving", "min_epochs": 2, "reduction_factor": 2, "first_folds": 1},
    )


def test_halving_climbs_its_ladder(make_small: MakeStudy) -> None:
    config, each = halving(make_small), START + 1
    one_slot = 4 * (2 + each) + 2 * (2 + each) + (4 + each) + (8 + each)
    # rungs: 2 epochs, 4, 8 on the first fold, and 8 on the other
    assert seconds(config, 1) == pytest.approx(one_slot)
    assert seconds(config, 2) == pytest.approx(2 * (2 + each) + (2 + each) + (4 + each) + (8 + each))


def test_halving_goes_on_from_where_it_stands(make_small: MakeStudy) -> None:
    config, each = halving(make_small), START + 1
    arrived = [[("waiting", 2), ("waiting", 0)], [("waiting", 2), ("waiting", 0)], [("running", 1), ("waiting", 0)]]
    known = []
    for rate, folds in zip((1e-3, 1e-4, 1e-5), arrived, strict=True):
        states = [TrialState(fold, state, epoch) for fold, (state, epoch) in enumerate(folds)]  # type: ignore[arg-type]
        known.append(ConfigurationState.of(str(rate), config.configuration({"training.learning_rate": rate}), states))
    state = replace(before(config), configurations=tuple(known))
    rest = 2 * (2 + each) + (4 + each) + (8 + each)
    assert seconds(config, 1, state) == pytest.approx(1 + (2 + each) + rest)
    pruned = ConfigurationState.of(
        "1e-06",
        config.configuration({"training.learning_rate": 1e-6}),
        [TrialState(0, "pruned", 2), TrialState(1)],
    )
    ahead = ConfigurationState.of("0.001", known[0].configuration, [TrialState(0, "running", 3), TrialState(1)])
    state = replace(before(config), configurations=(ahead, known[1], known[1], pruned))
    assert seconds(config, 1, state) == pytest.approx(1 + (2 + each) + (4 + each) + (8 + each))


@pytest.mark.parametrize(
    ("search", "workers"), [({}, 3), (PRUNING, 3), ({**PRUNING, "bracket": 24, "first_folds": 2}, 3)]
)
def test_a_planted_search_ends_when_it_was_foretold(
    search: dict[str, object], workers: int, quick_folder: Path
) -> None:
    """Epochs take by the network, on a clock of the test's own; foretold at the start and half-way. Other draws of the
    networks' speeds: docs/search.md."""
    config, problem = planted_study(**search), PlantedTrials(0)
    specs = dict.fromkeys(map(spec_of, model_specs(config)))
    by_spec = {spec: Pace(random.Random(f"1 {number}").uniform(1, 3), 2.0) for number, spec in enumerate(specs)}
    searcher = FoldSearcher(config, Proposals(config, StudyFolder(quick_folder)), problem)
    foretold = [(0.0, seconds_to_go(config, before(config), by_spec, workers))]
    now, number, ends = 0.0, 0, dict[str, float]()
    running = dict[str, dict[str, object]]()
    while True:
        while len(running) < workers and isinstance(trial := searcher.suggest(str(number)), dict):
            running[str(number)], done = trial, len(problem.epochs(trial["key"], trial["fold"]))
            pace = by_spec[spec_of(Configuration.model_validate_json(trial["configuration"]))]
            ends[str(number)] = now + TRIAL_SECONDS + pace.start + pace.epoch * (trial["until"] - done)
            searcher.note_running(str(number), is_running=True)
            number += 1
        if not running:
            break
        soonest = min(running, key=ends.__getitem__)
        now, trial = ends[soonest], running.pop(soonest)
        problem.train(trial)
        searcher.on_trial_result(soonest, {})
        searcher.on_trial_complete(soonest, {})
        if number % 20 == 0 or not running:
            foretold.append((now, seconds_to_go(config, searcher.state, by_spec, workers)))
    assert problem.trained > EPOCHS
    assert foretold[0][1] == pytest.approx(now, rel=0.06)
    half = next((then, eta) for then, eta in foretold if then > now / 2)
    assert sum(half) == pytest.approx(now, rel=0.06)
    assert foretold[-1][1] == 0


@pytest.fixture
def started(tmp_path: Path) -> StudyOnDisk:
    """A study of 2 × 2 configurations and two folds."""
    space = {"enumerate": {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]}}
    return StudyOnDisk(tmp_path, StudyConfig.model_validate({"name": "fake", "space": space, "folds": {"folds": 2}}))


def write_usage(study: StudyOnDisk, fold: int, *lines: dict[str, object]) -> None:
    """Of the NCCT trial on a fold, which is started if it is not."""
    study.start(NCCT, fold, study.epochs(fold, count=sum(SECONDS in line for line in lines)))
    (study.trial(NCCT, fold) / USAGE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_pace_and_the_energy_are_those_of_the_studys_own_epochs(started: StudyOnDisk) -> None:
    write_note(started.folder, Note(running=frozenset({(NCCT.key, 0), (CTA.key, 0)})))
    assert read_forecast(started.folder).eta_seconds is None, "nothing has trained yet"
    write_usage(started, 0, {"code": "x"}, {"epoch": 1, SECONDS: 7.0}, {"epoch": 2, SECONDS: 2.0, CPU: 1.8e6})
    write_usage(started, 1, {"code": "x"}, {"epoch": 1, SECONDS: 7.0, CPU: 1.8e6})
    write_note(started.folder, Note(running=frozenset({(NCCT.key, 0)}), at_once=1))
    state = read_forecast(started.folder)
    assert state.energy_kwh == pytest.approx(1)
    epoch, start = (2 + 7) / 2, 5 / 2 + START
    assert state.eta_seconds == pytest.approx(58 * epoch + (59 * epoch + start) + 6 * (60 * epoch + start))
    write_note(started.folder, Note(running=frozenset({(NCCT.key, 0)}), at_once=8))
    assert read_forecast(started.folder).eta_seconds == pytest.approx(60 * epoch + start)
    write_note(started.folder, Note(has_finished=True, at_once=8))
    assert read_forecast(started.folder).eta_seconds is None


def test_trials_of_earlier_versions_tell_the_pace_by_their_records(started: StudyOnDisk) -> None:
    started.end(NCCT, 0, started.epochs(0))  # 3 epochs in 1.5 s
    started.start(NCCT, 1)
    state = read_forecast(started.folder)
    assert (state.energy_kwh, state.count("running")) == (None, 1)
    assert state.eta_seconds == pytest.approx(60 * 0.5 + 6 * (60 * 0.5 + START))
