"""The pictures that MLflow shows at a trial's run."""

from pathlib import Path

from rlvo.evaluation.predictions import read_predictions
from rlvo.report.style import svg
from rlvo.report.trial import learning_curves, trial_roc
from rlvo.training.records import BEST_WEIGHTS, PREDICTIONS, member_key, read_epochs, read_record

CURVES = "figures/learning-curves.svg"
"""Path among the artifacts of a trial's run."""


def trial_figures(folder: Path) -> dict[str, str]:
    """SVGs by their path among the run's artifacts: learning curves, and the ROC curve if the trial has finished.

    Args:
        folder: of a trial that has ended.

    Raises:
        RlvoError: one of its files is missing or damaged.
    """
    figures = dict[str, str]()
    if (record := read_record(folder, unchecked=[BEST_WEIGHTS])) is None:
        return figures
    if epochs := read_epochs(folder):
        figures[CURVES] = svg(learning_curves(epochs, record.best_epoch))
    if PREDICTIONS not in record.files:
        return figures
    predictions = read_predictions(folder / PREDICTIONS)
    predictions = predictions[predictions["member"] == member_key(record.configuration, record.identity.fold)]
    if predictions["label"].nunique() == 2:
        label, probability = predictions["label"].to_numpy(int), predictions["probability"].to_numpy(float)
        figures["figures/roc.svg"] = svg(trial_roc(label, probability))
    return figures
