"""The pictures that MLflow shows at a trial's run."""

from collections.abc import Mapping, Sequence

import pandas as pd

from rlvo.report.style import svg
from rlvo.report.trial import learning_curves, trial_roc
from rlvo.training.records import CompletionRecord, member_key

CURVES = "figures/learning-curves.svg"
"""Path among the artifacts of a trial's run."""


def trial_figures(
    epochs: Sequence[Mapping[str, float]], record: CompletionRecord, predictions: pd.DataFrame | None
) -> dict[str, str]:
    """SVGs by their path among the run's artifacts: learning curves, and the ROC curve if there is one.

    Args:
        epochs: of `read_epochs`; there may be none.
        predictions: of the fold's validation patients; None if the trial has not finished.
    """
    figures = {}
    if epochs:
        figures[CURVES] = svg(learning_curves(epochs, record.best_epoch))
    if predictions is not None:
        predictions = predictions[predictions["member"] == member_key(record.configuration, record.identity.fold)]
    if predictions is not None and predictions["label"].nunique() == 2:
        label, probability = predictions["label"].to_numpy(int), predictions["probability"].to_numpy(float)
        figures["figures/roc.svg"] = svg(trial_roc(label, probability))
    return figures
