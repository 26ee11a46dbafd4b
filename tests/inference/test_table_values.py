"""What a patient's table values do to the answer: against answers for altered tables."""

import numpy as np
import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.inference.explanation import explain_answer
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.table_values import TableValue, typical_row


@pytest.fixture(scope="module")
def rows(study: TinyStudy) -> pd.DataFrame:
    """One patient, and the same with a typical age, and with typical values throughout."""
    own, encoder = study.raw.head(1).astype(object), study.encoders[0]
    typical = typical_row(encoder)
    return pd.concat(
        [
            own,
            own.assign(patient_id="b", age=typical["age"].iloc[0]),
            own.assign(patient_id="c", **{name: typical[name].iloc[0] for name in typical}),
        ]
    )


@pytest.fixture(scope="module")
def one_fold(predictor: EnsemblePredictor) -> EnsemblePredictor:
    """Both folds with the encoder of the first: there is one typical patient only."""
    description = predictor.description
    variant = description.variants[0]
    same = variant.model_copy(update={"encoders": dict.fromkeys(variant.encoders, variant.encoders[0])})
    return EnsemblePredictor(description.model_copy(update={"variants": (same,)}), predictor.members)


def test_scores_are_those_of_a_table_with_typical_values(
    study: TinyStudy, one_fold: EnsemblePredictor, rows: pd.DataFrame
) -> None:
    answers = one_fold.predict(rows, study.cohort.parent)
    facts = explain_answer(one_fold, rows.head(1), study.cohort.parent, check=False).facts
    values = {value.predictor: value for value in facts.values}
    assert set(values) == set(one_fold.description.predictors)
    score, aged, typical = answers["score"]
    assert facts.answer["score"] == pytest.approx(score, abs=1e-9)
    assert values["age"].score_if_typical == pytest.approx(aged, abs=1e-6)
    assert values["age"].rlvo_if_typical == answers["rlvo"].iloc[1]
    assert values["age"].typical == rows["age"].iloc[1]
    assert facts.typical_score == pytest.approx(typical, abs=1e-6)
    contributions = [value.contribution for value in facts.values]
    assert sum(contributions) == pytest.approx(score - typical, abs=1e-6)
    assert np.abs(contributions).max() > 0
    assert (np.diff(np.abs(contributions)) <= 0).all()


def test_places_among_the_training_patients(study: TinyStudy, predictor: EnsemblePredictor) -> None:
    row = study.raw.head(1).assign(age=200.0, nihss=None)  # no age: the cell counts as missing
    facts = explain_answer(predictor, row, study.cohort.parent, check=False).facts
    values = {value.predictor: value for value in facts.values}
    assert (values["age"].value, values["nihss"].value, values["nihss"].percentiles) == (None, None, None)
    development = study.inputs.table.loc[list(study.inputs.split.development)]
    for name in ("sex", "hypertension", "occlusion_site"):
        expected = int((development[name] == study.inputs.table[name].iloc[0]).sum())
        assert (values[name].same, values[name].known) == (expected, len(development))
    assert (facts.patients, facts.prevalence) == (18, pytest.approx(study.inputs.label[development.index].mean()))
    volume = values["tmax_gt6_ml"]
    assert isinstance(volume, TableValue)
    assert (volume.lowest, volume.highest) == (development["tmax_gt6_ml"].min(), development["tmax_gt6_ml"].max())
    low, high = volume.percentiles or (None, None)
    smaller = 100 * (development["tmax_gt6_ml"] < volume.value).mean()
    assert low is not None
    assert low - 6 <= smaller <= high + 6
