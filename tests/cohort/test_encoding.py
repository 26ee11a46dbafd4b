from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.malformed import BINARIES

from rlvo.cohort.encoding import Scaling, TabularEncoder, fit_encoder
from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import TMAX_VOLUMES
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import RlvoError

CONTINUOUS = ("age", "nihss", "cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")


patient = st.fixed_dictionaries(
    {
        "sex": st.none() | st.sampled_from(["F", "M"]),
        "occlusion_side": st.none() | st.sampled_from(["left", "right"]),
        "occlusion_site": st.none() | st.sampled_from(["TICA", "M1", "M2"]),
        **{name: st.none() | st.integers(0, 1) for name in BINARIES},
        **{name: st.none() | st.integers(0, 400).map(lambda tenths: tenths / 10) for name in CONTINUOUS},
    }
)
COMPLETE = {
    **{"sex": "F", "occlusion_side": "left", "occlusion_site": "M1", **dict.fromkeys(BINARIES, 1)},
    **{"age": 70, "nihss": 10, "cbf_lt30_ml": 5, "tmax_gt4_ml": 40, "tmax_gt6_ml": 20, "tmax_gt10_ml": 5},
}


def typed(patients: list[dict]) -> pd.DataFrame:
    return examine_table(pd.DataFrame(patients).assign(patient_id=[f"p{i}" for i in range(len(patients))]))[0]


@settings(max_examples=12, deadline=None)
@given(
    training=st.lists(patient, min_size=1, max_size=8),
    others=st.lists(patient, min_size=1, max_size=5),
    flags=st.booleans(),
)
def test_an_encoding_depends_on_no_other_patient_and_stays_within_bounds(
    training: list[dict], others: list[dict], flags: bool
) -> None:
    table = pd.DataFrame([COMPLETE, *training, *others])  # typed as a checked table is
    encoder = fit_encoder(table.iloc[: len(training) + 1], PAPER_PREDICTORS, missing_flags=flags)
    before = encoder.model_dump_json()
    batch = encoder.transform(table)
    assert batch.dtype == np.float32
    assert batch.shape == (len(table), len(encoder.feature_names))
    assert np.all((batch >= 0) & (batch <= 1))
    for i in range(len(table)):
        np.testing.assert_array_equal(encoder.transform(table.iloc[[i]])[0], batch[i])
    assert encoder.model_dump_json() == before
    assert TabularEncoder.model_validate_json(before) == encoder


def test_names_and_values_by_hand() -> None:
    old = {**COMPLETE, "age": 80, "sex": "M", "occlusion_side": "right", "tmax_gt10_ml": 10, "tmax_gt4_ml": 80}
    new = {**COMPLETE, "age": 75, "occlusion_site": "M2", "tmax_gt10_ml": 7.5, "tmax_gt4_ml": 100}
    predictors = ("age", "sex", "occlusion_side", "occlusion_site", "ivt", "hir", "tmax4_tmax6_ratio")
    encoder = fit_encoder(typed([COMPLETE, old]), predictors)
    assert encoder.feature_names == (
        "age", "sex=F", "occlusion_side=left", "occlusion_side=right", "occlusion_site=TICA", "occlusion_site=M1",
        "occlusion_site=M2", "ivt", "hir", "tmax4_tmax6_ratio",
    )  # fmt: skip
    assert encoder.reference_features == ("occlusion_side=left", "occlusion_site=TICA")
    # HIR 7.5/20 lies halfway between 5/20 and 10/20; the ratio 100/20 beyond 80/20 is clipped.
    np.testing.assert_allclose(encoder.transform(typed([new])), [[0.5, 1, 1, 0, 0, 0, 1, 1, 0.5, 1]], rtol=1e-6)


def test_the_features_of_a_predictor_are_found_together(rows: pd.DataFrame) -> None:
    encoder = fit_encoder(examine_table(rows)[0], ["age", "occlusion_site", "sex"], missing_flags=True)
    assert encoder.feature_groups == {"age": (0, 5), "occlusion_site": (1, 2, 3, 6), "sex": (4, 7)}


def test_the_papers_predictors_give_21_features(rows: pd.DataFrame) -> None:
    assert len(fit_encoder(examine_table(rows)[0], PAPER_PREDICTORS).feature_names) == 21


def test_imputation_is_by_the_training_folds_median_and_mode() -> None:
    fold = typed([{**COMPLETE, "age": a, "sex": s} for a, s in [(60, "M"), (70, "M"), (100, "F"), (None, None)]])
    encoder = fit_encoder(fold, ("age", "sex"), missing_flags=True)
    assert encoder.feature_names == ("age", "sex=F", "age=missing", "sex=missing")
    np.testing.assert_allclose(encoder.transform(fold.iloc[[3]]), [[0.25, 0, 1, 1]])
    np.testing.assert_allclose(encoder.transform(pd.DataFrame(index=["new"])), [[0.25, 0, 1, 1]])
    assert encoder.imputed(fold.iloc[[2]]) == []
    assert encoder.imputed(fold.iloc[[3]]) == ["age", "sex"]


def test_derived_predictors_follow_imputation() -> None:
    fold = typed([{**COMPLETE, "tmax_gt6_ml": v, "tmax_gt4_ml": 2 * v, "tmax_gt10_ml": v / 2} for v in (10, 20, 40)])
    fold["tmax_gt10_ml"] = [1.0, 10.0, 40.0]
    encoder = fit_encoder(fold, ("hir", "tmax4_tmax6_ratio"), imputation="median", scaling="min_max")
    assert encoder.bounds["hir"] == (0.1, 1.0)
    patients = typed([{**COMPLETE, "tmax_gt6_ml": 25}, {**COMPLETE, "tmax_gt6_ml": 0}, COMPLETE])
    patients["tmax_gt10_ml"] = np.nan
    # The median Tmax>10 s of 10 over 25; 0 where Tmax>6 s is 0; 10 over 20.
    np.testing.assert_allclose(encoder.transform(patients)[:, 0], [(0.4 - 0.1) / 0.9, 0, (0.5 - 0.1) / 0.9], rtol=1e-6)
    assert encoder.imputed(patients.iloc[[0]]) == ["hir"]
    # In proportion to Tmax>6 s: the median HIR of .5, whatever the volume.
    by_ratio = fit_encoder(fold, ("hir", "tmax4_tmax6_ratio"), scaling="min_max")
    np.testing.assert_allclose(by_ratio.transform(patients)[:, 0], [(0.5 - 0.1) / 0.9, 0, (0.5 - 0.1) / 0.9], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    measured=st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3).map(sorted), min_size=3, max_size=9),
    missing=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=9, max_size=9),
    names=st.sampled_from([TMAX_VOLUMES, TMAX_VOLUMES[1:], TMAX_VOLUMES[::2]]),
)
def test_an_imputed_part_is_never_larger_than_the_whole(
    measured: list[list[int]], missing: list[list[bool]], names: tuple[str, ...]
) -> None:
    fold = pd.DataFrame(measured, columns=TMAX_VOLUMES[::-1], dtype=float)[list(names)]
    # The bounds are 0 and 1000, so that the encoding shows what was imputed.
    encoder = fit_encoder(fold, names).model_copy(update={"bounds": dict.fromkeys(names, (0, 1000))})
    incomplete = fold.mask(np.array(missing)[: len(fold), : len(names)])
    filled = 1000 * encoder.transform(incomplete)
    np.testing.assert_allclose(filled[incomplete.notna()], incomplete.to_numpy()[incomplete.notna()], rtol=1e-5)
    assert (np.diff(filled, axis=1) <= 1e-3).all()


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ((30, 10, None), (30, 10, 4)),  # the median of the column, 40, would be four times the whole
        ((None, 10, None), (30, 10, 4)),
        ((30, None, None), (30, 10, 4)),
        ((None, None, 20), (150, 50, 20)),
        ((30, None, 20), (30, 30, 20)),  # 20 / .4 would be more than the 30 mL that it is a part of
        ((None, None, None), (300, 100, 40)),
        ((None, None, 0), (300, 100, 0)),  # no Tmax > 10 s does not tell how much there is > 6 s ...
        ((30, None, 0), (30, 10, 0)),  # ... but Tmax > 4 s does
        ((30, 0, None), (30, 0, 0)),
    ],
)
def test_a_missing_volume_follows_from_the_measured_ones(
    measured: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    fold = pd.DataFrame([(200, 50, 5), (200, 100, 40), (600, 200, 100)], columns=TMAX_VOLUMES, dtype=float)
    encoder = fit_encoder(fold, TMAX_VOLUMES).model_copy(update={"bounds": dict.fromkeys(TMAX_VOLUMES, (0, 1000))})
    patient = pd.DataFrame([measured], columns=TMAX_VOLUMES, dtype=float)
    np.testing.assert_allclose(1000 * encoder.transform(patient)[0], expected, rtol=1e-5)


def test_one_patient_does_not_set_the_scale_of_the_others() -> None:
    rng = np.random.default_rng(0)
    tmax6 = rng.uniform(20, 200, 120)
    fold = pd.DataFrame({"tmax_gt4_ml": tmax6 * rng.uniform(1.2, 2, 120), "tmax_gt6_ml": tmax6})
    without, spread = fold.iloc[1:], {}
    fold.iloc[0] = (60, 1)
    for scaling in get_args(Scaling):
        encoders = [fit_encoder(each, ("tmax4_tmax6_ratio",), scaling=scaling) for each in (without, fold)]
        spread[scaling] = [encoder.transform(without).std() for encoder in encoders]
        assert encoders[1].extremes["tmax4_tmax6_ratio"] == (pytest.approx(1.2, abs=0.05), 60)
    assert spread["min_max"][1] < 0.1 * spread["min_max"][0]
    assert spread["quantile"][1] == pytest.approx(spread["quantile"][0], rel=0.05)


def test_without_a_hypoperfused_volume_the_ratio_is_the_folds_median() -> None:
    fold = typed([{**COMPLETE, "tmax_gt4_ml": v} for v in (30, 40, 100)])
    encoder = fit_encoder(fold, ("tmax4_tmax6_ratio",))
    nothing = typed([{**COMPLETE, "tmax_gt6_ml": 0, "tmax_gt4_ml": 0}])
    np.testing.assert_allclose(encoder.transform(nothing), [[(2 - 1.5) / (5 - 1.5)]], rtol=1e-6)
    assert encoder.imputed(nothing) == []


def test_a_half_imputed_quotient_does_not_set_the_scale() -> None:
    fold = typed([{**COMPLETE, "tmax_gt10_ml": v} for v in (5, 10, 15)] + [{**COMPLETE, "tmax_gt6_ml": 0.1}])
    fold.loc["p3", "tmax_gt10_ml"] = np.nan
    encoder = fit_encoder(fold, ("hir",), imputation="median")
    assert encoder.bounds["hir"] == (0.25, 0.75)
    assert encoder.transform(fold)[3, 0] == 1


def test_a_constant_predictor_is_zero_and_no_predictors_are_no_features() -> None:
    fold = typed([COMPLETE, COMPLETE])
    assert not fit_encoder(fold, ("age",)).transform(fold).any()
    assert fit_encoder(fold, ()).transform(fold).shape == (2, 0)


def test_a_predictor_without_values_and_an_outcome_are_refused() -> None:
    fold = typed([{**COMPLETE, "age": None, "tmax_gt6_ml": 0}])
    with pytest.raises(RlvoError, match=r"age: no value among the 1 training patients"):
        fit_encoder(fold, ("age", "sex"))
    with pytest.raises(RlvoError, match="tmax4_tmax6_ratio: no value"):
        fit_encoder(fold, ("tmax4_tmax6_ratio",))
    with pytest.raises(RlvoError, match="etici is an outcome"):
        fit_encoder(fold, ("etici",))
