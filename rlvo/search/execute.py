"""A search, start to end: Optuna proposes configurations, Tune trains their folds, the records say how it went."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import tune

from rlvo.config.study import StudyConfig
from rlvo.search.cluster import connected
from rlvo.search.inputs import StudyInputs
from rlvo.search.progress import OnProgress, ProgressCallback
from rlvo.search.proposals import Proposals
from rlvo.search.results import SearchResult
from rlvo.search.searcher import FoldSearcher
from rlvo.search.trainable import train_fold
from rlvo.search.trials import TrialFolders


def run_search(
    study: StudyConfig,
    inputs: StudyInputs,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
    address: str | None = None,
) -> SearchResult:
    """Run what of the study has not run yet. Trials that fail are part of the result and do not stop the others.

    Args:
        study: the study's configuration.
        inputs: from `open_study`.
        folder: the study folder; on a cluster, one that every node sees.
        on_progress: called at every result and at least every second while trials run.
        address: Ray cluster; None: `RAY_ADDRESS`, else this machine.

    Raises:
        KeyboardInterrupt: after an orderly stop; the next call goes on.
        RlvoError: a completion record is damaged, or the machine cannot hold a trial.
    """
    folder = folder.resolve()
    proposals = Proposals(study, folder)
    searcher = FoldSearcher(study, proposals, TrialFolders(inputs, folder))
    tell = on_progress or (lambda _: None)
    progress = ProgressCallback(searcher, proposals.budget, study.folds.folds, tell, folder)
    progress.tell([])
    had_work = searcher.fill()
    if had_work:
        with connected(study.resources, address), _quiet():
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
            callbacks=[progress],
            trial_dirname_creator=lambda trial: trial.trial_id,
            verbose=0,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
