"""Stored predictions with known truth, checked against weights, thresholds and votes written out in NumPy."""

import itertools

import numpy as np
import pandas as pd
import pytest

from rlvo.config.model import Configuration, ModelConfig
from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.build import build_ensemble, out_of_fold, study_ensembles, validation_metrics
from rlvo.ensemble.spec import EnsembleSpec, apply
from rlvo.errors import RlvoError
from rlvo.training.records import CompletionRecord, TrialIdentity

FOLDS = 4
SETTINGS = EnsembleConfig()


def configuration(modality: str, fusion: str = "daft") -> Configuration:
    return Configuration(model=ModelConfig(backbone="resnet18", modality=modality, fusion=fusion))  # type: ignore[arg-type]


def record(config: Configuration, fold: int, auc: float, status: str = "finished") -> CompletionRecord:
    identity = TrialIdentity(study="s", configuration=config.key, fold=fold, split_hash="split", data_hash="data")
    return CompletionRecord(
        identity=identity,
        configuration=config,
        status=status,
        epochs=1,
        metrics={"val/auc": auc},
        seconds=1.0,  # type: ignore[arg-type]
    )


def stored(configurations: list[Configuration], seed: int = 0) -> pd.DataFrame:
    """Validation predictions of 25 patients a fold, informative, with ties; and rows that must be ignored."""
    rng = np.random.default_rng(seed)
    label = rng.random((FOLDS, 25)) < 0.35
    label[:, :2] = [False, True]
    rows = []
    for config, fold in itertools.product(configurations, range(FOLDS)):
        logit = 1.5 * label[fold] + rng.normal(size=25) - 0.5
        probability = np.round(1 / (1 + np.exp(-logit)), 2)
        rows += [
            {"patient": f"p{fold}-{i:02d}", "member": f"{config.key}-f{fold}", "fold": fold, "split": split,
             "probability": probability[i] if split == "validation" else 0.5, "label": int(label[fold, i])}
            for i in range(25) for split in ("train", "validation")
        ]  # fmt: skip
    return pd.DataFrame(rows)


THREE = [configuration(modality) for modality in ("NCCT", "CTA", "BOTH")]
RECORDS = [record(config, fold, 0.7) for config in THREE for fold in range(FOLDS)]


def youden(y: np.ndarray, score: np.ndarray) -> float:
    """The highest threshold with the largest TPR − FPR, by trying them all."""
    best = max((score[y == 1] >= t).mean() - (score[y == 0] >= t).mean() for t in score)
    return max(t for t in score if (score[y == 1] >= t).mean() - (score[y == 0] >= t).mean() >= best - 1e-12)


def by_hand(predictions: pd.DataFrame, new: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of the ensemble of THREE for `new` probabilities [fold, modality, N]."""
    thresholds, tpr, tnr, combined_thresholds, scores = [], [], [], [], []
    for fold in range(FOLDS):
        rows = predictions[(predictions.fold == fold) & (predictions.split == "validation")]
        p = np.stack([rows[rows.member == f"{c.key}-f{fold}"].sort_values("patient").probability for c in THREE])
        y = rows[rows.member == f"{THREE[0].key}-f{fold}"].sort_values("patient").label.to_numpy()
        t = np.array([youden(y, p[m]) for m in range(3)])
        r1 = np.array([(p[m][y == 1] >= t[m]).mean() for m in range(3)])
        r0 = np.array([(p[m][y == 0] < t[m]).mean() for m in range(3)])

        def score(q: np.ndarray, r1: np.ndarray = r1, r0: np.ndarray = r0) -> np.ndarray:
            return (r1 @ q) / (r1 @ q + r0 @ (1 - q))

        thresholds.append(t), tpr.append(r1), tnr.append(r0)
        combined_thresholds.append(youden(y, np.round(score(p), 12)))
        scores.append(score(new[fold]))
    margins = np.array(scores) - np.array(combined_thresholds)[:, None]
    return {
        "thresholds": np.array(thresholds), "tpr": np.array(tpr), "tnr": np.array(tnr),
        "combined": np.array(combined_thresholds), "score": margins.mean(axis=0),
        "votes": (margins >= 0).sum(axis=0), "rlvo": ((margins >= 0).sum(axis=0) > FOLDS / 2).astype(int),
    }  # fmt: skip


def probabilities_of(spec: EnsembleSpec, new: np.ndarray) -> dict[str, np.ndarray]:
    return {m.key: new[fold.fold, i] for fold in spec.folds for i, m in enumerate(fold.members)}


def test_thresholds_weights_scores_and_votes_equal_numpy() -> None:
    predictions = stored(THREE)
    spec = build_ensemble(THREE[::-1], RECORDS, predictions, SETTINGS)
    new = np.random.default_rng(5).random((FOLDS, 3, 60))
    expected = by_hand(predictions, new)
    of = lambda name: np.array([[getattr(m, name) for m in fold.members] for fold in spec.folds])  # noqa: E731
    np.testing.assert_allclose(of("threshold"), expected["thresholds"], atol=1e-9)
    np.testing.assert_allclose(of("tpr"), expected["tpr"], atol=1e-9)
    np.testing.assert_allclose(of("tnr"), expected["tnr"], atol=1e-9)
    np.testing.assert_allclose([fold.threshold for fold in spec.folds], expected["combined"], atol=1e-9)
    answer = apply(spec, probabilities_of(spec, new))
    np.testing.assert_allclose(answer.score, expected["score"], atol=1e-9)
    np.testing.assert_array_equal(answer.votes, expected["votes"])
    np.testing.assert_array_equal(answer.rlvo, expected["rlvo"])
    assert 0 < answer.rlvo.sum() < 60
    assert (answer.folds, answer.undecided.tolist()) == (FOLDS, [0] * 60)
    for i, modality in enumerate(("NCCT", "CTA", "BOTH")):
        np.testing.assert_allclose(answer.probability[modality], new[:, i].mean(axis=0))  # type: ignore[index]


def test_json_gives_the_same_ensemble_and_holds_no_patient() -> None:
    spec = build_ensemble(THREE, RECORDS, stored(THREE), SETTINGS)
    text = spec.model_dump_json()
    assert EnsembleSpec.model_validate_json(text) == spec
    assert "p0-" not in text


def test_the_order_of_rows_records_and_patients_changes_nothing() -> None:
    predictions = stored(THREE)
    spec = build_ensemble(THREE, RECORDS, predictions, SETTINGS)
    shuffled = predictions.sample(frac=1, random_state=1)
    assert build_ensemble(THREE, RECORDS[::-1], shuffled, SETTINGS) == spec
    new, order = np.random.default_rng(6).random((FOLDS, 3, 30)), np.random.default_rng(7).permutation(30)
    answer, permuted = (apply(spec, probabilities_of(spec, n)) for n in (new, new[:, :, order]))
    np.testing.assert_array_equal(permuted.score, answer.score[order])
    np.testing.assert_array_equal(permuted.rlvo, answer.rlvo[order])


@pytest.mark.parametrize("constant", [0.0, 0.4, 1.0])
def test_a_constant_member_cannot_break_the_vote(constant: float) -> None:
    predictions = stored(THREE)
    broken = f"{THREE[0].key}-f2"
    predictions.loc[predictions.member == broken, "probability"] = constant
    spec = build_ensemble(THREE, RECORDS, predictions, SETTINGS)
    member = spec.folds[2].members[0]
    assert (member.tpr, member.tnr, member.better_than_chance) == (0.0, 1.0, False)
    assert np.isfinite(member.threshold)
    new = np.random.default_rng(8).random((FOLDS, 3, 50))
    new[2, 0] = constant
    answer = apply(spec, probabilities_of(spec, new))
    assert np.isfinite(answer.score).all()
    # Only fold 2 is touched: the other folds vote as they did, so a clear majority among them stands.
    others = by_hand(stored(THREE), new)
    without = build_ensemble(THREE, RECORDS, stored(THREE), SETTINGS)
    other_votes = apply(without.model_copy(update={"folds": tuple(f for f in without.folds if f.fold != 2)}),
                        probabilities_of(without, new)).votes  # fmt: skip
    assert len(others["rlvo"]) == 50
    assert (answer.rlvo[other_votes == 3] == 1).all()
    assert (answer.rlvo[other_votes <= 1] == 0).all()


def test_a_member_without_an_answer_leaves_that_patient_alone_unanswered() -> None:
    spec = build_ensemble(THREE, RECORDS, stored(THREE), SETTINGS)
    new = np.random.default_rng(9).random((FOLDS, 3, 5))
    whole = apply(spec, probabilities_of(spec, new)).score
    new[1, 2, 3] = np.nan
    score = apply(spec, probabilities_of(spec, new)).score
    assert np.isnan(score[3])
    np.testing.assert_array_equal(np.delete(score, 3), np.delete(whole, 3))


def test_out_of_fold_scores_each_patient_by_its_own_fold() -> None:
    predictions = stored(THREE)
    spec = build_ensemble(THREE, RECORDS, predictions, SETTINGS)
    scored = out_of_fold(spec, predictions)
    assert scored.index.is_unique
    assert len(scored) == 25 * FOLDS
    for fold in spec.folds:
        own = scored[scored["fold"] == fold.fold]
        assert set(own.index) == {f"p{fold.fold}-{i:02d}" for i in range(25)}
        # The threshold is one patient's score: that patient's margin is exactly zero, and it counts as positive.
        assert own.loc[own["score"] == 0, "vote"].tolist() == [1]
    metrics = validation_metrics(spec, predictions)
    own = scored[scored["fold"] == 1]
    assert metrics.loc[1, "sensitivity"] == own.loc[own.label == 1, "vote"].mean()
    pairs = [(a > b) + 0.5 * (a == b) for a in own.score[own.label == 1] for b in own.score[own.label == 0]]
    assert metrics.loc[1, "auc"] == pytest.approx(np.mean(pairs))


def test_the_study_declares_the_champion_its_modalities_and_every_spec() -> None:
    none = [configuration(modality, "none") for modality in ("NCCT", "CTA", "BOTH")]
    aucs = dict(zip(THREE + none, (0.6, 0.8, 0.85, 0.7, 0.7, 0.9), strict=True))
    records = [record(c, fold, auc) for c, auc in aucs.items() for fold in range(FOLDS)]
    declared = study_ensembles(records, stored(THREE + none), SETTINGS)
    assert set(declared) == {"ensemble", "NCCT", "CTA", "BOTH", "resnet18 daft", "resnet18 none"}
    assert declared["ensemble"].configurations == (none[0], THREE[1], none[2])
    assert declared["resnet18 none"].configurations == tuple(none)
    assert declared["CTA"].configurations == (THREE[1],)
    same = study_ensembles(records, stored(THREE + none), EnsembleConfig(selection="same_spec"))
    assert same["ensemble"].configurations == tuple(none)  # mean .767 against .75


def test_a_missing_modality_and_a_failed_trial_are_named_and_the_rest_goes_on() -> None:
    records = [record(c, f, 0.7) for c in THREE[:2] for f in range(FOLDS)]
    records[5] = record(THREE[1], 1, 0.7, status="failed")
    spec = study_ensembles(records, stored(THREE[:2]), SETTINGS)["ensemble"]
    assert [c.model.modality for c in spec.configurations] == ["NCCT"]
    assert any("CTA" in note and "fold 1" in note for note in spec.notes)
    assert "no CTA members" in spec.notes
    assert "no BOTH members" in spec.notes
    with pytest.raises(RlvoError, match="finished all its folds"):
        study_ensembles(records[4:], stored(THREE[:2]), SETTINGS)


def test_members_that_do_not_fit_together_are_refused() -> None:
    predictions = stored(THREE)
    key = f"{THREE[1].key}-f0"
    one = predictions.index[(predictions.member == key) & (predictions.split == "validation")][0]
    for damaged, message in (
        (predictions.drop(index=one), "same patients"),
        (pd.concat([predictions, predictions.loc[[one]]]), "same patients"),
        (predictions.assign(label=predictions.label.where(predictions.index != one, 1 - predictions.label)), "labels"),
        (predictions[predictions.member != key], "missing"),
    ):
        with pytest.raises(RlvoError, match=message):
            build_ensemble(THREE, RECORDS, damaged, SETTINGS)
    other = RECORDS[0].model_copy(update={"identity": RECORDS[0].identity.model_copy(update={"split_hash": "other"})})
    with pytest.raises(RlvoError, match="different splits"):
        build_ensemble(THREE, [other, *RECORDS[1:]], predictions, SETTINGS)
