"""Clinical baselines: one model per fold, with the folds, thresholds and metrics of the networks (section 2.4)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlvo.cohort.encoding import Imputation, TabularEncoder, fit_encoder
from rlvo.cohort.splits import Split
from rlvo.cohort.variables import VARIABLES, Variable, source_columns
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.evaluation.baselines import BaselineModel, fit_boosting, fit_logistic, fit_ridge
from rlvo.evaluation.metrics import auprc, classification_metrics
from rlvo.evaluation.odds import odds_ratios
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.training.table_model import TableModel, table_member_key

UNITS = {"hir": 0.1, "tmax4_tmax6_ratio": 1.0}
"""The unit of each derived predictor in odds ratios."""


@dataclass(frozen=True)
class Baseline:
    """How a baseline is fitted."""

    member: str
    """Its name in `evaluation.predictions`, without the fold."""
    predictors: tuple[str, ...] | None
    """None: all of the study's."""
    fit: Callable[[np.ndarray, ArrayLike], BaselineModel]
    """Fits a model to encoded patients [N, T] and labels [N]."""


BASELINES = {
    "NIHSS": Baseline("nihss", ("nihss",), fit_logistic),
    "ASPECTS": Baseline("aspects", ("aspects",), fit_logistic),
    "NIHSS + ASPECTS": Baseline("nihss-aspects", ("nihss", "aspects"), fit_logistic),
    "all clinical": Baseline("clinical", None, fit_logistic),
    "all clinical, ridge": Baseline("clinical-ridge", None, fit_ridge),
    "all clinical, boosted": Baseline("clinical-boosted", None, fit_boosting),
}
"""The paper's logistic regressions, and for comparison a penalised one and boosted trees."""


@dataclass(frozen=True)
class BaselineFold:
    """One fold's encoder and model, fitted on its training patients, and a threshold from its validation patients."""

    encoder: TabularEncoder
    model: BaselineModel
    threshold: float

    def probability(self, table: pd.DataFrame) -> np.ndarray:
        """Probability of rLVO for each patient, [N]."""
        return self.model.predict(_design(self.encoder, table).to_numpy())


@dataclass(frozen=True)
class StoredFold:
    """One fold of a baseline that looks at volumes: what it said of the patients whom it was not trained on."""

    said: pd.Series
    """Probabilities of rLVO, index patient."""
    threshold: float

    def probability(self, table: pd.DataFrame) -> np.ndarray:
        """As `BaselineFold.probability`, for patients who were asked about."""
        return self.said.loc[table.index].to_numpy(float)


@dataclass(frozen=True)
class BaselineResult:
    """The models of all folds, and their validation predictions (columns of `evaluation.predictions`)."""

    predictors: tuple[str, ...]
    folds: tuple[BaselineFold | StoredFold, ...]
    validation: pd.DataFrame

    def validation_metrics(self) -> pd.DataFrame:
        """`classification_metrics` and `auprc` of the validation patients, one row per fold.

        The thresholds were chosen on the same patients, so all but AUC and AUPRC are optimistic.
        """
        rows = []
        for k, fold in enumerate(self.folds):
            own = self.validation[self.validation["fold"] == k]
            metrics = classification_metrics(own["label"], own["probability"], fold.threshold)
            rows.append(metrics | {"auprc": auprc(own["label"], own["probability"])})
        return pd.DataFrame(rows)

    def nested_answers(self) -> pd.DataFrame:
        """Out-of-fold answers, with each fold's threshold from the other folds' patients: nothing is optimistic.

        Index patient; `label`, `fold`, `probability`, `score` (probability − threshold), `rlvo`.
        """
        rows = self.validation.set_index("patient")[["label", "fold", "probability"]]
        others = {k: rows[rows["fold"] != k] for k in rows["fold"].unique()}
        thresholds = {k: youden_threshold(other["label"], other["probability"]) for k, other in others.items()}
        score = rows["probability"] - rows["fold"].map(thresholds)
        return rows.assign(score=score, rlvo=(score >= 0).astype(int))

    def score(self, table: pd.DataFrame) -> pd.DataFrame:
        """The folds' answers for patients whom none of them saw, indexed as `table`.

        `probability`: mean over folds; `score`: mean of probability − threshold; `votes`: number of folds that say
        rLVO; `rlvo`: 1 if a strict majority does.
        """
        probability = np.array([fold.probability(table) for fold in self.folds])
        margin = probability - np.array([[fold.threshold] for fold in self.folds])
        votes = (margin >= 0).sum(axis=0)
        answers = {
            "probability": probability.mean(axis=0),
            "score": margin.mean(axis=0),
            "votes": votes,
            "rlvo": (2 * votes > len(self.folds)).astype(int),
        }
        return pd.DataFrame(answers, index=table.index)


def clinical_baselines(
    table: pd.DataFrame,
    label: pd.Series,
    split: Split,
    predictors: Sequence[str] = PAPER_PREDICTORS,
    imputation: Imputation | None = None,
    own: Sequence[OwnPredictor] = (),
) -> dict[str, BaselineResult]:
    """Fit each of `BASELINES` whose predictors have values in the table; by name.

    Arguments and errors are those of `clinical_baseline`; `predictors` are the study's.
    """
    results = {}
    for name, baseline in BASELINES.items():
        chosen = baseline.predictors or tuple(predictors)
        if all(column in table and table[column].notna().any() for column in source_columns(chosen)):
            results[name] = clinical_baseline(table, label, split, chosen, baseline, imputation, own)
    return results


def clinical_baseline(
    table: pd.DataFrame,
    label: pd.Series,
    split: Split,
    predictors: Sequence[str],
    baseline: Baseline,
    imputation: Imputation | None = None,
    own: Sequence[OwnPredictor] = (),
) -> BaselineResult:
    """Fit a model on each fold's training patients; the hold-out is not used.

    Args:
        table: a checked cohort table, indexed by patient id.
        label: 0 or 1 for each patient, indexed likewise.
        split: the folds.
        predictors: names of predictors; may include `aspects`.
        baseline: how to fit, and the name in the predictions.
        imputation: see `fit_encoder`. Scaling is by the extremes: a regression follows any scale.
        own: the declarations of predictors that rlvo does not know.

    Raises:
        RlvoError: a column cannot be a predictor, or has no value in a training fold.
    """
    folds, predictions = [], []
    for k in range(len(split.folds)):
        training, validation = list(split.training(k)), list(split.validation(k))
        encoder = fit_encoder(table.loc[training], predictors, own, scaling="min_max", imputation=imputation)
        model = baseline.fit(_design(encoder, table.loc[training]).to_numpy(), label[training])
        probability = model.predict(_design(encoder, table.loc[validation]).to_numpy())
        folds.append(BaselineFold(encoder, model, youden_threshold(label[validation], probability)))
        rows = {
            "patient": validation,
            "member": f"{baseline.member}-f{k}",
            "fold": k,
            "split": "validation",
            "probability": probability,
            "label": label[validation].to_numpy(),
        }
        predictions.append(pd.DataFrame(rows))
    return BaselineResult(tuple(predictors), tuple(folds), pd.concat(predictions, ignore_index=True))


def clinical_odds(
    table: pd.DataFrame,
    label: pd.Series,
    split: Split,
    predictors: Sequence[str] = PAPER_PREDICTORS,
    own: Sequence[OwnPredictor] = (),
) -> pd.DataFrame:
    """Odds ratios from one multivariate fit on all development patients (section 3.1, figure A1).

    Each odds ratio is per natural unit, as in the paper: a year, a point, a mL, 0.1 of the HIR; of a study's own
    predictors per level, or per power of ten that is a tenth to a hundredth of the range. Missing values are imputed
    as for the baselines. The odds ratios describe the development patients and validate nothing.

    Returns:
        The columns of `odds_ratios`, and `unit`: what the odds ratio compares ("per mL", "vs no", "vs TICA").
    """
    development = table.loc[list(split.development)]
    encoder = fit_encoder(development, predictors, own, scaling="min_max")
    design = _design(encoder, development)
    for name, (low, high) in encoder.bounds.items():
        design[name] *= (high - low) / _step(name, encoder.variables)
    for each in encoder.own:
        if each.kind == "ordinal":
            design[each.name] *= len(each.levels) - 1
    odds = odds_ratios(design, label[list(split.development)])
    odds.insert(1, "unit", [_unit(term, encoder.variables) for term in odds["term"]])
    return odds


def fit_table_model(encoder: TabularEncoder, table: pd.DataFrame, label: pd.Series) -> TableModel:
    """Fit it to a fold's training patients (`evaluation.baselines.fit_ridge`), encoded as the networks are given them.

    Args:
        encoder: the fold's.
        table: typed rows [N] of the training patients.
        label: 0 or 1 of the same patients [N].
    """
    is_free = ~np.isin(encoder.feature_names, encoder.reference_features)
    coefficients = np.zeros(len(is_free))
    fitted = fit_ridge(encoder.transform(table)[:, is_free], label)
    coefficients[is_free] = fitted.coefficients
    return TableModel(coefficients=tuple(coefficients.tolist()), intercept=fitted.intercept)


def table_predictions(
    model: TableModel, encoder: TabularEncoder, table: pd.DataFrame, label: pd.Series, fold: int
) -> pd.DataFrame:
    """What it says of its fold's validation patients: columns of `rlvo.evaluation.predictions`."""
    rows = {
        "patient": table.index,
        "member": table_member_key(fold),
        "fold": fold,
        "split": "validation",
        "probability": model.predict(encoder.transform(table)),
        "label": label.to_numpy(),
    }
    return pd.DataFrame(rows)


def _design(encoder: TabularEncoder, table: pd.DataFrame) -> pd.DataFrame:
    """Encoded predictors without the reference levels, which the intercept represents."""
    encoded = pd.DataFrame(encoder.transform(table).astype(np.float64), table.index, list(encoder.feature_names))
    return encoded.drop(columns=list(encoder.reference_features))


def _step(name: str, variables: Mapping[str, Variable]) -> float:
    """What an odds ratio of a continuous predictor compares, in its unit."""
    if name in VARIABLES or name in UNITS:
        return UNITS.get(name, 1.0)
    span = variables[name].high - variables[name].low
    return float(10.0 ** (math.floor(math.log10(span)) - 1))


def _unit(term: str, variables: Mapping[str, Variable]) -> str:
    name = term.partition("=")[0]
    if name in UNITS:
        return f"per {UNITS[name]:g}"
    variable = variables[name]
    if variable.kind == "continuous":
        step, unit = _step(name, variables), variable.unit or ""
        return f"per {unit.removesuffix('s') or 'unit'}" if step == 1 else f"per {step:g} {unit}".rstrip()
    if variable.kind == "ordinal":
        return "per level"
    return f"vs {variable.levels[0]}" if variable.levels else "vs no"
