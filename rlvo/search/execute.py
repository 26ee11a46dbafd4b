"""A search, start to end: Optuna proposes configurations, Tune trains their folds, the records say how each ended."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneError
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError, StorageError
from rlvo.files import storage_errors
from rlvo.ray_session import check_resources, ray_session
from rlvo.search.forecast import with_forecast
from rlvo.search.live_metrics import LiveMetrics
from rlvo.search.packing import settle_on_cluster
from rlvo.search.plan import plan_study
from rlvo.search.preflight import check_disk, check_memory, cut_torn_line
from rlvo.search.proposals import Proposals
from rlvo.search.room import RoomWatch, asked_by_trial
from rlvo.search.searcher import FoldSearcher
from rlvo.search.trainable import STOPS, train_fold
from rlvo.search.workers import IDLE_SECONDS, KeepWorkers, asking_for_all
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import StudyInputs
from rlvo.study.state import StudyState
from rlvo.study.status import Note, write_note
from rlvo.study.trials import TrialStore
from rlvo.training.records import KILLED, OUT_OF_MEMORY
from rlvo.training.usage import UsageReader

INTERVAL = 1.0
"""Seconds between two states that are told."""
NOTE_INTERVAL = 10.0
"""Seconds between two notes that say the same."""
FORECAST_INTERVAL = 5.0
"""Seconds between two forecasts."""

LOW_MEMORY = "out of memory: Ray ended its process"

OnState = Callable[[StudyState], None]


def run_search(
    config: StudyConfig,
    inputs: StudyInputs,
    study: StudyFolder,
    *,
    on_state: OnState = lambda state: None,
    address: str | None = None,
) -> StudyState:
    """Run the trials of the study that have not run yet.

    A trial that fails is part of the result and does not stop the others, unless all of them would fail in the same
    way: then the search stops, and the next call continues it.

    Args:
        config: the study's configuration.
        inputs: from `open_study`.
        study: its folder; on a cluster, one that every node sees.
        on_state: is told where the search stands: at the start, at every result, about every second while trials run,
            and at the end. If nothing is left to run, the first state told is complete.
        address: Ray cluster; None: `RAY_ADDRESS`, or else this machine.

    Raises:
        KeyboardInterrupt: after an orderly stop; the next call continues.
        RlvoError: a completion record is damaged, the machine cannot hold a trial, a patient's volumes are missing or
            damaged (PatientError), or a node of the cluster does not see the study's folder (NotSharedError).
        MachineError: there is too little disk space, or (StorageError) the study's folder takes nothing any more.
    """
    study = StudyFolder(study.path.resolve())
    try:
        with storage_errors(study.path):
            searcher = FoldSearcher(config, Proposals(config, study), TrialStore(study, inputs.identity))
            events = TuneEvents(searcher, config, study, on_state)
            has_work = searcher.fill()
            events.tell([])
            if has_work:
                planned = plan_study(config)
                check_disk(planned, study)
                store = next(iter(inputs.volumes.values())).parents[1]
                with ray_session((study.path, store), address) as is_local, _quiet():
                    config = settle_on_cluster(config, planned)
                    asked = asked_by_trial(config, planned, of_cluster=not is_local)
                    if is_local:
                        check_resources(cpus=asked["CPU"], gpus=asked["GPU"], memory=asked.get("memory", 0.0))
                        check_memory(planned, on_gpu=config.resources.known_gpus > 0)
                    else:
                        events.room = RoomWatch(asked)
                    with asking_for_all(of_cluster=not is_local), frozen_objects():
                        keeper = KeepWorkers(searcher.is_needless, math.inf if is_local else IDLE_SECONDS)
                        _tune(config, inputs, study, searcher, events, keeper, asked)
                events.tell([])
                if not searcher.finished:
                    raise KeyboardInterrupt
            return searcher.state
    except StorageError:
        with suppress(OSError):  # it cannot be written at all
            cut_torn_line(study.journal)
        raise


def _tune(
    config: StudyConfig,
    inputs: StudyInputs,
    study: StudyFolder,
    searcher: FoldSearcher,
    events: TuneEvents,
    keeper: KeepWorkers,
    asked: dict[str, float],
) -> None:
    trainable = tune.with_parameters(train_fold, config=config, inputs=inputs, study=study)
    shutil.rmtree(study.tune, ignore_errors=True)
    try:
        tune.run(
            tune.with_resources(trainable, asked),
            name=config.name,
            storage_path=str(study.tune),
            search_alg=searcher,
            scheduler=keeper,
            num_samples=-1,
            max_concurrent_trials=config.search.concurrent_trials,
            reuse_actors=True,
            max_failures=config.search.max_failures,
            raise_on_failed_trial=False,
            callbacks=[events],
            trial_dirname_creator=lambda trial: trial.trial_id,
            verbose=0,
        )
    except TuneError as error:  # it wraps what the searcher or a callback raised
        if isinstance(error.__context__, RlvoError | OSError):
            raise error.__context__ from None
        raise
    finally:
        shutil.rmtree(study.tune, ignore_errors=True)


class TuneEvents(TrialProgressCallback):  # type: ignore[misc]
    """Passes on what happens in Tune's loop: to whoever shows the state, and by a note to whoever watches the folder.

    It derives from the callback with which Tune prints every trial, and so replaces it.

    Args:
        searcher: knows how the configurations do, and is told why a trial crashed.
        config: the study's configuration.
        study: the study's folder.
        on_state: is told the state.
    """

    def __init__(self, searcher: FoldSearcher, config: StudyConfig, study: StudyFolder, on_state: OnState) -> None:
        super().__init__()
        self._searcher, self._config, self._study, self._on_state = searcher, config, study, on_state
        self._told, self._note, self._noted = 0.0, Note(), -NOTE_INTERVAL
        self._at_once, self._forecast, self._foretold = 0, searcher.state, -FORECAST_INTERVAL
        self._usage, self._live = UsageReader(), LiveMetrics(config.name)
        self.room: RoomWatch | None = None
        """Set for a cluster."""

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self._told >= INTERVAL:
            self.tell(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._searcher.note_running(trial.trial_id, is_running=True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """End the search for an error that every trial would meet. The searcher is not told: the trial can resume."""
        if STOPS in result:
            raise result[STOPS]

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune's own callback would print the trial."""

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Have a trial whose process was ended for lack of memory go on with fewer patients at once."""
        if crash_reason(trial).startswith(LOW_MEMORY):
            (self._study.trial(trial.config["key"], trial.config["fold"]) / KILLED).touch()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._searcher.explain(trial.config["key"], trial.config["fold"], crash_reason(trial))

    def tell(self, trials: list[Trial]) -> None:
        """Tell the state, given the trials that Tune has."""
        for trial in trials:
            self._searcher.note_running(trial.trial_id, is_running=trial.status == Trial.RUNNING)
        if self.room is not None:
            found = {trial.status for trial in trials}
            self.room.look(is_stuck=Trial.PENDING in found and Trial.RUNNING not in found)
        state = self._foretell(self._searcher.state)
        self._on_state(state)
        self._live.show(state)
        self._told, note = time.monotonic(), Note.of(state)
        if note != self._note or self._told - self._noted >= NOTE_INTERVAL:
            write_note(self._study, note)
            self._note, self._noted = note, self._told

    def _foretell(self, state: StudyState) -> StudyState:
        """The state with the time to go, which is worked out anew now and then."""
        self._at_once, now = max(self._at_once, state.count("running")), time.monotonic()
        state = replace(state, at_once=self._at_once)
        if now - self._foretold >= FORECAST_INTERVAL:
            self._forecast = with_forecast(state, self._study, self._config, self._usage)
            self._foretold = now
        eta, energy = self._forecast.eta_seconds, self._forecast.energy_kwh
        if eta is not None:
            eta = None if state.is_complete else max(eta - (now - self._foretold), 0.0)
        return replace(state, eta_seconds=eta, energy_kwh=energy)


def crash_reason(trial: Trial) -> str:
    """In one line, what a trial raised or how its process died.

    Reads the text that Tune writes about a failed trial, as its own readers look for that where it arrives only later,
    and not the error that Tune pickles beside it: on a cluster, others may write there.
    """
    text = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    if "running low on memory" in text:
        return f"{LOW_MEMORY}. {OUT_OF_MEMORY}"
    _, frame, rest = text.rpartition('\n  File "')
    raised = itertools.dropwhile(lambda line: line.startswith("    "), rest.splitlines()[1:])
    said = re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", " ".join(" ".join(raised).split()))
    return said if frame else "its process died, often for lack of memory"


@contextmanager
def frozen_objects() -> Iterator[None]:
    """Have Python look for garbage only among what is made from now on.

    Ray, torch and the study's records stay, and to look through them takes .4 s each time, in which no trial is
    answered. What is new is looked through in smaller parts than usual, of 1 ms: the youngest objects, and at every
    second look those that are somewhat older.
    """
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(thresholds[0], 0, *thresholds[2:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Tune says about itself; failed trials are reported from the result."""
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_PRINT_ALL_TRIAL_ERRORS="0", RAY_AIR_NEW_OUTPUT="0")
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
