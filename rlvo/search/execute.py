"""A search, start to end: Optuna proposes configurations, Tune trains their folds, the records say how it went."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, TuneError
from ray.tune.experiment import Trial

from rlvo.config.study import StudyConfig
from rlvo.errors import DiskFullError, RlvoError
from rlvo.files import told_when_full
from rlvo.search.cluster import connected
from rlvo.search.guards import check_disk, check_memory, cut_torn_line
from rlvo.search.inputs import StudyInputs
from rlvo.search.plan import plan_study
from rlvo.search.progress import OnProgress, ProgressCallback
from rlvo.search.proposals import Proposals
from rlvo.search.results import SearchResult
from rlvo.search.searcher import FoldSearcher
from rlvo.search.storage import JOURNAL
from rlvo.search.trainable import STOPS, train_fold
from rlvo.search.trials import TrialFolders


def run_search(
    study: StudyConfig,
    inputs: StudyInputs,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
    address: str | None = None,
) -> SearchResult:
    """Run what of the study has not run yet. Trials that fail are part of the result and do not stop the others, unless
    all of them would meet the same: then the search stops, and goes on at the next call.

    Args:
        study: the study's configuration.
        inputs: from `open_study`.
        folder: the study folder; on a cluster, one that every node sees.
        on_progress: called at every result and at least every second while trials run.
        address: Ray cluster; None: `RAY_ADDRESS`, else this machine.

    Raises:
        KeyboardInterrupt: after an orderly stop; the next call goes on.
        RlvoError: a completion record is damaged, the machine cannot hold a trial, a patient's volumes are missing or
            damaged (PatientError), or a node of the cluster does not see the study folder (NotSharedError).
        MachineError: there is too little disk, or (DiskFullError) it has run out.
    """
    folder = folder.resolve()
    try:
        with told_when_full(folder):
            return _run(study, inputs, folder, on_progress or (lambda _: None), address)
    except DiskFullError:
        cut_torn_line(folder / JOURNAL)
        raise


def _run(study: StudyConfig, inputs: StudyInputs, folder: Path, tell: OnProgress, address: str | None) -> SearchResult:
    proposals = Proposals(study, folder)
    searcher = FoldSearcher(study, proposals, TrialFolders(inputs, folder))
    progress = ProgressCallback(searcher, proposals.budget, study.folds.folds, tell, folder)
    progress.tell([])
    had_work = searcher.fill()
    if had_work:
        planned = plan_study(study)
        check_disk(planned, folder)
        store = next(iter(inputs.volumes.values())).parents[1]
        with connected(study.resources, (folder, store), address) as is_here, _quiet():
            if is_here:
                check_memory(planned, on_gpu=study.resources.gpus > 0)
            _tune(study, inputs, folder, searcher, progress)
        progress.tell([])
        if not searcher.finished:
            raise KeyboardInterrupt
    return SearchResult(searcher.results, had_work=had_work)


def _tune(
    study: StudyConfig, inputs: StudyInputs, folder: Path, searcher: FoldSearcher, progress: ProgressCallback
) -> None:
    trainable = tune.with_parameters(train_fold, study=study, inputs=inputs, folder=folder)
    scratch = folder / "tune"  # Tune's own state: the journal and the records make it superfluous
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        tune.run(
            tune.with_resources(trainable, {"cpu": study.resources.cpus, "gpu": study.resources.gpus}),
            name=study.name,
            storage_path=str(scratch),
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=study.search.concurrent_trials,
            reuse_actors=True,
            max_failures=study.search.max_failures,
            raise_on_failed_trial=False,
            callbacks=[progress, _StopForAll()],
            trial_dirname_creator=lambda trial: trial.trial_id,
            verbose=0,
        )
    except TuneError as error:  # around what the searcher or a callback raised
        if isinstance(error.__context__, RlvoError | OSError):
            raise error.__context__ from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _StopForAll(Callback):
    """Ends the search for an error that every trial would meet. The searcher is not told: the trial goes on later."""

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        if STOPS in result:
            raise result[STOPS]


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
