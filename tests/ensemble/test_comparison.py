"""Optimistic and nested estimates against the ensembles themselves, hand computation, and noise."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm
from support.stored_predictions import (
    FOLDS,
    MODALITIES,
    THREE,
    configuration,
    noise,
    records_of,
    stored,
    with_baseline,
    with_table,
)

from rlvo.config.model import Configuration, FusionName
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import score_out_of_fold, study_ensembles
from rlvo.ensemble.calibration import fit_calibrator
from rlvo.ensemble.comparison import (
    COLUMNS,
    compare_ensembles,
    every_way,
    nested_margins,
    nested_probabilities,
    one_change,
    optimistic_margins,
    simulate_votes,
)
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.selection import Selection, folds_unseen_by_pruning
from rlvo.ensemble.spec import IMAGE, IMAGE_TABLE
from rlvo.evaluation.metrics import auc_interval, classification_metrics
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.training.records import CompletionRecord

FUSIONS: tuple[FusionName, ...] = ("none", "concat", "film", "daft")
MANY = [configuration(m, f, prior=prior) for m in MODALITIES for f in FUSIONS for prior in (False, True)]


def with_baselines(predictions: pd.DataFrame, signal: float = 1.5, seed: int = 9) -> pd.DataFrame:
    """What all baselines say, too."""
    predictions = with_table(predictions, signal, seed)
    for number, baseline in enumerate((IMAGE, IMAGE_TABLE), 1):
        predictions = with_baseline(predictions, baseline, signal, seed + 100 * number)
    return predictions


def mean_of(selection: Selection) -> list[EnsembleConfig]:
    return [EnsembleConfig(selection=selection, weighting="mean")]


def test_every_selection_and_weighting_has_both_estimates() -> None:
    predictions = with_baselines(stored(MANY[:6]))
    ways = every_way(EnsembleConfig(weighting="youden", table_member="ridge"))
    table = compare_ensembles(records_of(predictions, MANY[:6]), predictions, ways)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == (3 * 5 * 2 * 2 + 2) * 2
    way = ["selection", "weighting", "member_scale", "table_member", "linear_image", "estimate"]
    assert not table.duplicated(way).any()
    assert ((table["low"] <= table["auc"]) & (table["auc"] <= table["high"])).all()
    own = EnsembleConfig(weighting="youden", table_member="ridge")
    near = one_change(table, own)
    assert near["change"].value_counts().to_dict() == dict.fromkeys(
        ["", "selection: same_spec", "selection: greedy", "weighting: class_rates", "weighting: balanced_accuracy",
         "weighting: mean", "weighting: stacked", "member_scale: platt", "table_member: none",
         "linear_image: alone", "linear_image: with_table"], 2
    )  # fmt: skip
    unread = one_change(table[table["linear_image"] == "none"], own.model_copy(update={"linear_image": "alone"}))
    assert (unread["change"] == "").sum() == 2
    (changed,) = near[(near["change"] == "member_scale: platt") & (near["estimate"] == "nested")].to_dict("records")
    assert changed["weighting"] == "youden"
    assert changed["auc"] == table.loc[near.index[near["change"] == "member_scale: platt"][1], "auc"]
    averages = table.groupby("estimate")["balanced_accuracy"].mean()
    assert averages["optimistic"] > averages["nested"]


@pytest.mark.parametrize("selection", ["best_per_modality", "same_spec", "greedy"])
def test_the_optimistic_estimate_is_that_of_the_studys_own_ensemble(selection: Selection) -> None:
    predictions = stored(MANY[:6])
    records = records_of(predictions, MANY[:6])
    spec = study_ensembles(records, predictions, EnsembleConfig(selection=selection, weighting="mean"))["ensemble"]
    validation = Validation.of(predictions)
    scored = score_out_of_fold(spec, validation)
    pd.testing.assert_frame_equal(optimistic_margins(records, validation, selection, "mean"), scored)
    table = compare_ensembles(records, predictions, mean_of(selection)).set_index("estimate")
    expected = classification_metrics(scored["label"], scored["vote"], 0.5)
    assert table.loc["optimistic", "sensitivity"] == expected["sensitivity"]
    assert table.loc["optimistic", "low"] == auc_interval(scored["label"], scored["score"])[0]


def test_nested_margins_equal_rates_and_thresholds_of_the_other_folds_by_hand() -> None:
    predictions = stored(THREE)
    nested = nested_margins(records_of(predictions, THREE), Validation.of(predictions), "same_spec", "class_rates")
    rows = predictions[predictions["split"] == "validation"]
    p = {
        fold: np.array([rows[rows.member == f"{c.key}-f{fold}"].sort_values("patient").probability for c in THREE])
        for fold in range(FOLDS)
    }
    y = {fold: rows[rows.fold == fold].groupby("patient")["label"].first().to_numpy() for fold in range(FOLDS)}
    for fold in range(FOLDS):
        others = [other for other in range(FOLDS) if other != fold]
        pooled, label = np.concatenate([p[k] for k in others], axis=1), np.concatenate([y[k] for k in others])
        t = [youden_threshold(label, pooled[m]) for m in range(3)]
        tpr = np.array([(pooled[m][label == 1] >= t[m]).mean() for m in range(3)])
        tnr = np.array([(pooled[m][label == 0] < t[m]).mean() for m in range(3)])

        def score(q: np.ndarray, tpr: np.ndarray = tpr, tnr: np.ndarray = tnr) -> np.ndarray:
            return (tpr @ q) / (tpr @ q + tnr @ (1 - q))

        threshold = youden_threshold(label, np.round(score(pooled), 12))
        np.testing.assert_allclose(nested[nested["fold"] == fold]["score"], score(p[fold]) - threshold, atol=1e-9)


LATER = [
    EnsembleConfig(selection="best_per_modality", weighting="stacked", table_member="ridge"),
    EnsembleConfig(selection="same_spec", weighting="youden", member_scale="platt", table_member="ridge"),
    EnsembleConfig(selection="greedy", weighting="stacked", member_scale="platt", table_member="ridge"),
    EnsembleConfig(selection="greedy", weighting="stacked", linear_image="with_table"),
    EnsembleConfig(selection="best_per_modality", weighting="mean", table_member="ridge", linear_image="alone"),
]
"""Ways that came later than the paper's."""


@pytest.mark.parametrize(
    "way",
    [*(EnsembleConfig(selection=each) for each in get_args(Selection)), *LATER],
    ids=lambda way: f"{way.selection} {way.weighting}",
)
def test_what_a_folds_own_patients_say_decides_nothing_in_the_nested_estimate(way: EnsembleConfig) -> None:
    """Fold 2's labels exchanged: its patients keep their margins."""
    predictions = with_baselines(stored(MANY[:8], seed=2))
    lying = predictions.assign(label=predictions["label"].where(predictions["fold"] != 2, 1 - predictions["label"]))
    margins = [
        nested_margins(records_of(table, MANY[:8]), Validation.of(table, way), way.selection, way.weighting)
        for table in (predictions, lying)
    ]
    own, same = (table.loc[table["fold"] == 2, "score"] for table in margins)
    pd.testing.assert_series_equal(own, same)
    others, changed = (table.loc[table["fold"] != 2, "score"] for table in margins)
    assert not others.equals(changed)


def test_on_noise_every_way_is_chance_nested() -> None:
    """With baselines that know nothing either. An AUC of 400 patients, a quarter positive, has an SE of .033."""
    found = []
    for seed in range(6):
        predictions = noise(MANY[:4], seed)
        table = with_baselines(predictions, signal=0, seed=seed)
        records, aucs = records_of(predictions, MANY[:4]), []
        for way in LATER:
            scored = nested_margins(records, Validation.of(table, way), way.selection, way.weighting)
            aucs.append(classification_metrics(scored["label"], scored["score"], 0.0)["auc"])
        found.append(aucs)
    assert (np.abs(np.mean(found, axis=0) - 0.5) < 3 * 0.033 / np.sqrt(6)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("selection", "configurations"), [("best_per_modality", MANY), ("greedy", MANY[::2])])
def test_on_noise_the_optimistic_estimate_promises_something_and_the_nested_one_does_not(
    selection: Selection, configurations: list[Configuration]
) -> None:
    found: dict[str, list[float]] = {"optimistic": [], "nested": []}
    for seed in range(6):
        predictions = noise(configurations, seed)
        records, validation = records_of(predictions, configurations), Validation.of(predictions)
        for name, scored_by in (("optimistic", optimistic_margins), ("nested", nested_margins)):
            scored = scored_by(records, validation, selection, "mean")
            found[name].append(classification_metrics(scored["label"], scored["score"], 0.0)["auc"])
    # Without selection such an AUC has a standard error of .033, and the mean of six .0136.
    assert np.mean(found["optimistic"]) > 0.5 + 4 * 0.0136
    assert abs(np.mean(found["nested"]) - 0.5) < 3 * 0.0136


def halved(configurations: list[Configuration], predictions: pd.DataFrame, folds: list[int]) -> list[CompletionRecord]:
    """Records of a search that let the better half of the configurations, by their mean AUC on `folds`, go on."""
    records = records_of(predictions, configurations)
    of_folds = [record for record in records if record.identity.fold in folds]
    means = {c: np.mean([r.objective for r in of_folds if r.configuration == c]) for c in configurations}
    survivors = sorted(configurations, key=lambda c: -means[c])[: len(configurations) // 2]
    pruned = [
        record.model_copy(update={"status": "pruned", "epochs": int(record.identity.fold in folds)})
        for record in records
        if record.configuration not in survivors
    ]
    return [record for record in records if record.configuration in survivors] + pruned


def test_after_pruning_only_patients_it_did_not_see_are_scored() -> None:
    predictions = noise(MANY[:16], 0, patients=24)
    records, validation = halved(MANY[:16], predictions, [0, 1]), Validation.of(predictions)
    assert folds_unseen_by_pruning(records) == [2, 3]
    nested = nested_margins(records, validation, "best_per_modality", "mean")
    assert set(nested["fold"]) == {2, 3}
    survivors = [record for record in records if record.outcome == "finished"]
    everyone = nested_margins(survivors, validation, "best_per_modality", "mean")
    pd.testing.assert_frame_equal(nested, everyone[everyone["fold"] >= 2])
    compared = compare_ensembles(records, predictions, mean_of("best_per_modality")).set_index("estimate")
    assert compared.loc["nested", "basis"] == "only folds 2, 3, which pruning did not see"
    assert compared.loc["nested", "auc"] == classification_metrics(nested["label"], nested["score"], 0.0)["auc"]
    settings = EnsembleConfig(selection="best_per_modality", weighting="mean")
    calibrated = nested_probabilities(records, predictions, settings)
    assert calibrated.index.equals(nested.index)
    spec = study_ensembles(records, predictions, settings)["ensemble"]
    scored = score_out_of_fold(spec, validation)
    unseen = scored[scored["fold"] >= 2]
    assert spec.calibration == fit_calibrator(unseen["label"], unseen["score"], "platt")


def test_one_unseen_fold_is_calibrated_on_the_others_and_none_is_said_to_be_optimistic() -> None:
    predictions = noise(MANY[:16], 0, patients=24)
    settings = EnsembleConfig(selection="best_per_modality", weighting="mean")
    one = halved(MANY[:16], predictions, [0, 1, 2])
    calibrated = nested_probabilities(one, predictions, settings)
    assert len(calibrated) == 24
    assert calibrated["probability"].between(0, 1).all()
    by_epoch = halved(MANY[:16], predictions, [0, 1, 2, 3])
    compared = compare_ensembles(by_epoch, predictions, mean_of("best_per_modality")).set_index("estimate")
    assert compared.loc["nested", "basis"] == "optimistic: configurations were pruned on every fold"
    assert len(nested_probabilities(by_epoch, predictions, settings)) == 96
    unpruned = records_of(predictions, MANY[:16])
    assert set(compare_ensembles(unpruned, predictions, mean_of("best_per_modality"))["basis"]) == {"all folds"}


@pytest.mark.slow
@pytest.mark.parametrize("is_pruned", [True, False])
def test_on_noise_the_nested_estimate_is_chance_with_and_without_pruning(is_pruned: bool) -> None:
    """16 configurations, halved on two of four folds; on those two the survivors look better than chance."""
    found, on_seen = [], []
    for seed in range(40):
        predictions = noise(MANY[:16], seed)
        validation = Validation.of(predictions)
        records = halved(MANY[:16], predictions, [0, 1]) if is_pruned else records_of(predictions, MANY[:16])
        survivors = [record for record in records if record.outcome == "finished"]
        for kept, scored in (
            (found, nested_margins(records, validation, "best_per_modality", "mean")),
            (on_seen, nested_margins(survivors, validation, "best_per_modality", "mean").query("fold < 2")),
        ):
            kept.append(classification_metrics(scored["label"], scored["score"], 0.0)["auc"])
    assert abs(np.mean(found) - 0.5) < 2 * np.std(found, ddof=1) / np.sqrt(len(found))
    if is_pruned:
        assert np.mean(on_seen) > 0.5 + 2 * np.std(on_seen, ddof=1) / np.sqrt(len(on_seen))


def test_a_configuration_with_a_failed_fold_is_left_out() -> None:
    other: Configuration = configuration("CTA", "none")
    predictions = stored([*THREE, other])
    records = records_of(predictions, [*THREE, other])
    records[-1] = records[-1].model_copy(update={"status": "failed"})
    expected = compare_ensembles(records_of(predictions, THREE), predictions, mean_of("same_spec"))
    pd.testing.assert_frame_equal(compare_ensembles(records, predictions, mean_of("same_spec")), expected)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_simulated_votes_follow_the_margins_and_the_folds_correlation(correlation: float) -> None:
    label = np.repeat([0, 1], [4000, 1000])
    normal = norm.ppf(np.r_[(np.arange(4000) + 0.5) / 4000, (np.arange(1000) + 0.5) / 1000])
    scored = pd.DataFrame({"label": label, "score": np.where(label == 1, 0.1, -0.1) + 0.2 * normal})
    found = simulate_votes(scored, 4, correlation)
    if correlation == 0:  # independent folds: binomial votes, with Φ(±.5) for one of them
        p = norm.cdf(np.array([-0.5, 0.5]))
        tied = binom.pmf(2, 4, p)
        negative, positive = binom.sf(2, 4, p), binom.sf(1, 4, p)
        np.testing.assert_allclose(found.loc["negative", "sensitivity"], negative[1], atol=0.02)
        np.testing.assert_allclose(found.loc["positive", "specificity"], 1 - positive[0], atol=0.02)
        assert found["tied"].to_numpy() == pytest.approx(tied.mean(), abs=0.02)
    if correlation == 1:  # one vote: there is no tie
        assert (found["tied"] == 0).all()
        assert found["balanced_accuracy"].nunique() == 1
        assert found["balanced_accuracy"].iloc[0] == pytest.approx(norm.cdf(0.5), abs=0.02)
    assert found.loc[["negative", "margin", "positive"], "sensitivity"].is_monotonic_increasing
