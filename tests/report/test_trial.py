"""A trial's pictures show its epochs and its checkpoint's answers, whatever of them is defined."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from rlvo.report.style import svg
from rlvo.report.trial import learning_curves, trial_roc

EPOCHS = [
    {"epoch": 1.0, "train/loss": 0.9, "val/loss": 0.8, "lr": 1e-3, "system/images_per_second": 9.0},
    {"epoch": 2.0, "train/loss": 0.7, "val/loss": 0.6, "val/auc": 0.7, "val/f1": 0.4, "lr": 1e-3},
    {"epoch": 3.0, "train/loss": 0.5, "val/loss": 0.7, "val/auc": 0.6, "val/f1": 0.5, "lr": 1e-4},
]


def test_learning_curves_show_every_epoch_in_which_a_metric_is_defined() -> None:
    losses, metrics = learning_curves(EPOCHS, best_epoch=2).axes
    shown = {line.get_label(): line.get_xydata().tolist() for axes in (losses, metrics) for line in axes.lines}
    assert shown["training"] == [[1, 0.9], [2, 0.7], [3, 0.5]]
    assert shown["validation"] == [[1, 0.8], [2, 0.6], [3, 0.7]]
    assert shown["AUC"] == [[2, 0.7], [3, 0.6]]
    assert "balanced accuracy" not in shown
    assert {line[0] for line in shown["best epoch, 2"]} == {2}


@pytest.mark.parametrize("count", [1, 3])
def test_one_epoch_is_a_picture_and_the_same_epochs_the_same_one(count: int) -> None:
    first, again = (svg(learning_curves(EPOCHS[:count])) for _ in range(2))
    assert first == again
    assert first.count("<use") > 10


def test_the_roc_curve_is_that_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(40) % 3 // 2
    probability = np.clip(rng.random(40) * 0.7 + 0.3 * label, 0, 1)
    (axes,) = trial_roc(label, probability).axes
    _, curve, dot = axes.lines
    false_positive, true_positive, _ = roc_curve(label, probability)
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([false_positive, true_positive]))
    best = np.argmax(true_positive - false_positive)
    np.testing.assert_allclose(dot.get_xydata(), [[false_positive[best], true_positive[best]]])
    assert axes.get_title("left").startswith(f"AUC {roc_auc_score(label, probability):.2f} (")
    assert "40 validation patients: optimistic" in axes.texts[0].get_text()
