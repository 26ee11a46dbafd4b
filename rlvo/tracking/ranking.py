"""What a study's ranking decides in MLflow: which runs are tagged as the best, and whose checkpoints are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rlvo.config.study import MlflowConfig
from rlvo.tracking.runs import RunTree, TrackedRun
from rlvo.tracking.trials import Trial
from rlvo.training.records import BEST_WEIGHTS, OBJECTIVE, CompletionRecord

BEST, CHECKPOINT = "rlvo.best", "rlvo.checkpoint"
"""`true` on the best trial and the best configuration; SHA-256 of the weights that lie under a trial's `best`."""


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial, with its run."""

    run: TrackedRun
    trial: Trial
    record: CompletionRecord

    @property
    def score(self) -> float:
        """`val/auc` of the best epoch; minus infinity where it is undefined."""
        return self.record.metrics.get(OBJECTIVE, -math.inf)

    @property
    def weights(self) -> Path:
        """Those of its best epoch, on disk."""
        return self.trial.folder / BEST_WEIGHTS


def tag_best(tree: RunTree, scores: Iterable[tuple[TrackedRun, float]]) -> None:
    """Tag the run with the highest score, the first of equals, and it alone; none where no score is finite."""
    ranked = sorted(scores, key=lambda scored: -scored[1])
    for place, (run, score) in enumerate(ranked):
        if place == 0 and math.isfinite(score):
            if BEST not in run.tags:
                tree.set_tags(run, {BEST: "true"})
        else:
            tree.remove_tags(run, BEST)


def keep_checkpoints(tree: RunTree, trials: Sequence[FinishedTrial], limits: MlflowConfig) -> None:
    """Have MLflow hold the weights of the best trials, as many as the limits allow, and no others.

    On disk every trial's weights stay where they are. What drops out is deleted before anything is added, so MLflow
    never holds more than it may.
    """
    ranked = sorted((trial for trial in trials if BEST_WEIGHTS in trial.record.files), key=lambda trial: -trial.score)
    sizes = accumulate(trial.weights.stat().st_size for trial in ranked)
    room = math.inf if limits.checkpoint_gb is None else limits.checkpoint_gb * 1e9
    keep = min(sum(size <= room for size in sizes), limits.keep_checkpoints or len(ranked))
    for dropped in ranked[keep:]:
        if CHECKPOINT in dropped.run.tags:
            tree.delete_artifacts(dropped.run, "best")
            tree.remove_tags(dropped.run, CHECKPOINT)
    for kept in ranked[:keep]:
        digest = kept.record.files[BEST_WEIGHTS]
        if kept.run.tags.get(CHECKPOINT) != digest:
            tree.client.log_artifact(kept.run.id, str(kept.weights), "best")
            tree.set_tags(kept.run, {CHECKPOINT: digest})
