"""The clinical log-odds that a network learns to add to: those of a ridge regression of the training patients.

With fusion `offset` the model keeps the regression that was fitted on all of them; with `training.beside_table` its
answers are of images alone. Of its own patients that regression is too sure, and the network would learn to add too
little: so in training each patient's log-odds come from a regression on the other parts of the training fold
(cross-fitting: Chernozhukov et al. 2018; as in stacking, Wolpert 1992).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logit
from sklearn.model_selection import StratifiedKFold

from rlvo.errors import RlvoError
from rlvo.evaluation.baselines import LogisticBaseline, fit_ridge, intercept_of
from rlvo.models.fusion import Offset
from rlvo.training.dataset import FoldData

PARTS = 10
"""Of the training fold, each left out once; fewer if a class has fewer patients."""


@dataclass(frozen=True)
class ClinicalLogits:
    """The regression on all training patients, and the cross-fitted log-odds of these patients."""

    regression: LogisticBaseline
    """Its coefficients belong to the encoder's features, [T]; 0 for those of reference levels."""
    cross_fitted: np.ndarray
    """[N] float32."""

    def write_to(self, offset: Offset) -> None:
        """Set the regression of a network."""
        offset.coefficients.copy_(offset.coefficients.new_tensor(self.regression.coefficients))
        offset.intercept.fill_(self.regression.intercept)

    def with_offset(self, data: FoldData, *, centred: bool) -> FoldData:
        """The same fold, its training patients with their cross-fitted log-odds.

        Args:
            data: the fold.
            centred: leave the prevalence to the network, because its answers do not include these log-odds.
        """
        offset = self.cross_fitted
        if centred:
            prevalence = float(data.training.labels.mean())
            offset = offset + np.float32(intercept_of(offset, prevalence) - logit(prevalence))
        return replace(data, training=replace(data.training, offset=offset))


def clinical_logits(data: FoldData, seed: int) -> ClinicalLogits:
    """Fit `fit_ridge` to the training patients of a fold, as the network sees them; nothing else is looked at.

    Args:
        data: the fold.
        seed: of the parts, which are stratified; rows of one person are in the same part.

    Raises:
        RlvoError: one of the classes has a single person.
    """
    training, names = data.training, data.encoder.feature_names
    used = [column for column, name in enumerate(names) if name not in data.encoder.reference_features]
    own, person = np.unique(training.persons or training.ids, return_inverse=True)
    is_positive = np.zeros(len(own), int)
    np.maximum.at(is_positive, person, training.labels.astype(int))
    if (fewest := int(np.bincount(is_positive, minlength=2).min())) < 2:
        what = f"the table's log-odds need two training patients of each class; of one there are {fewest}"
        fix = "Use more patients, or neither model.fusion: offset nor training.beside_table"
        raise RlvoError(what, where="training fold", fix=fix)
    cross_fitted = np.empty(len(training), np.float32)
    for _, left_out in StratifiedKFold(min(PARTS, fewest), shuffle=True, random_state=seed).split(own, is_positive):
        is_left_out = np.isin(person, left_out)
        others = _fit(training.tabular[~is_left_out], training.labels[~is_left_out], used)
        cross_fitted[is_left_out] = others.logit(training.tabular[is_left_out])
    return ClinicalLogits(_fit(training.tabular, training.labels, used), cross_fitted)


def _fit(tabular: np.ndarray, labels: np.ndarray, used: list[int]) -> LogisticBaseline:
    fitted = fit_ridge(tabular[:, used], labels)
    coefficients = np.zeros(tabular.shape[1])
    coefficients[used] = fitted.coefficients
    return LogisticBaseline(coefficients, fitted.intercept)
