"""What a study's ranking decides in MLflow: which runs are tagged as the best, and whose checkpoints are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlvo.tracking.runs import RunTree, TrackedRun
from rlvo.tracking.trials import OBJECTIVE, Trial
from rlvo.training.records import BEST_WEIGHTS, CompletionRecord

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


def tag_best(tree: RunTree, scores: Iterable[tuple[TrackedRun, float]]) -> None:
    """Tag the run with the highest score, the first of equals, and it alone; none where no score is finite."""
    ranked = sorted(scores, key=lambda scored: -scored[1])
    for place, (run, score) in enumerate(ranked):
        if place == 0 and math.isfinite(score):
            if BEST not in run.tags:
                tree.set_tags(run, {BEST: "true"})
        else:
            tree.remove_tags(run, BEST)


def keep_checkpoints(tree: RunTree, trials: Sequence[FinishedTrial], keep: int | None) -> None:
    """Have MLflow hold the weights of the `keep` best trials (None: of all), and no others.

    On disk every trial's weights stay where they are. What drops out is deleted before anything is added, so MLflow
    never holds more than `keep`.
    """
    ranked = sorted((trial for trial in trials if BEST_WEIGHTS in trial.record.files), key=lambda trial: -trial.score)
    for dropped in ranked[keep:] if keep is not None else ():
        if CHECKPOINT in dropped.run.tags:
            tree.delete_artifacts(dropped.run, "best")
            tree.remove_tags(dropped.run, CHECKPOINT)
    for kept in ranked[:keep]:
        digest = kept.record.files[BEST_WEIGHTS]
        if kept.run.tags.get(CHECKPOINT) != digest:
            tree.client.log_artifact(kept.run.id, str(kept.trial.folder / BEST_WEIGHTS), "best")
            tree.set_tags(kept.run, {CHECKPOINT: digest})
