"""Ensembles of stored predictions, checked against weights, thresholds and votes written out in NumPy."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from support.stored_predictions import FOLDS, MODALITIES, RECORDS, THREE, configuration, fitted, record, stored

from rlvo.config.model import Configuration
from rlvo.config.sections import EnsembleConfig
from rlvo.config.training import TrainingConfig
from rlvo.ensemble.build import fit_fallbacks, score_out_of_fold, study_ensembles, validation_metrics
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import EnsembleAnswer, EnsembleSpec, apply_ensemble, first_names
from rlvo.ensemble.voting import Tie
from rlvo.ensemble.weighting import Weighting
from rlvo.errors import RlvoError


def youden(y: np.ndarray, score: np.ndarray) -> float:
    """The highest threshold with the largest TPR − FPR, by trying them all."""
    best = max((score[y == 1] >= t).mean() - (score[y == 0] >= t).mean() for t in score)
    return max(t for t in score if (score[y == 1] >= t).mean() - (score[y == 0] >= t).mean() >= best - 1e-12)


def combined(weighting: str, p: np.ndarray, tpr: np.ndarray, tnr: np.ndarray) -> np.ndarray:
    """Combined scores [N] of probabilities [3, N], written out."""
    if weighting == "class_rates":
        support, opposition = tpr @ p, tnr @ (1 - p)
        return np.asarray(support / (support + opposition))
    weights = (tpr + tnr) / 2 if weighting == "balanced_accuracy" else np.ones(3)
    return np.asarray(weights @ p / weights.sum())


def by_hand(predictions: pd.DataFrame, new: np.ndarray, weighting: str, tie: str) -> dict[str, Any]:
    """The ensemble of THREE and its answers to `new` probabilities [fold, modality, N]."""
    found: dict[str, Any] = {"threshold": [], "tpr": [], "tnr": [], "combined": []}
    margins = np.empty((FOLDS, new.shape[2]))
    for fold in range(FOLDS):
        rows = predictions[(predictions.fold == fold) & (predictions.split == "validation")]
        p = rows.pivot(index="member", columns="patient", values="probability")
        p, y = (
            p.loc[[f"{c.key}-f{fold}" for c in THREE]].to_numpy(),
            rows.groupby("patient")["label"].first().to_numpy(),
        )
        t = np.array([youden(y, own) for own in p])
        positive = p >= t[:, None]
        tpr, tnr = positive[:, y == 1].mean(axis=1), 1 - positive[:, y == 0].mean(axis=1)
        threshold = youden(y, combined(weighting, p, tpr, tnr).round(12))
        margins[fold] = combined(weighting, new[fold], tpr, tnr) - threshold
        for name, value in zip(found, (t, tpr, tnr, threshold), strict=True):
            found[name].append(value)
    votes, mean = (margins >= 0).sum(axis=0), margins.mean(axis=0)
    drawn = {"negative": False, "positive": True, "margin": mean >= 0}[tie]
    rlvo = (votes > FOLDS - votes) | ((votes == FOLDS - votes) & drawn)
    return {**found, "score": mean, "votes": votes.tolist(), "rlvo": rlvo.astype(int).tolist()}


def answer(spec: EnsembleSpec, new: np.ndarray) -> EnsembleAnswer:
    """To `new` probabilities [fold, modality, N]."""
    return apply_ensemble(spec, {m.key: new[fold.fold, i] for fold in spec.folds for i, m in enumerate(fold.members)})


WAYS = [
    EnsembleConfig(),
    EnsembleConfig(member_scale="platt"),
    EnsembleConfig(weighting="youden"),
    EnsembleConfig(member_scale="platt", weighting="stacked"),
]


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy", "mean"])
@pytest.mark.parametrize("tie", ["negative", "positive", "margin"])
def test_thresholds_weights_scores_and_votes_equal_numpy(weighting: Weighting, tie: Tie) -> None:
    predictions = stored(THREE)
    spec = fitted(THREE[::-1], predictions, EnsembleConfig(weighting=weighting, tie=tie))
    new = np.random.default_rng(5).random((FOLDS, 3, 60))
    expected = by_hand(predictions, new, weighting, tie)
    for name in ("threshold", "tpr", "tnr"):
        of_members = [[getattr(member, name) for member in fold.members] for fold in spec.folds]
        np.testing.assert_allclose(of_members, expected[name], rtol=0, atol=1e-9)
    np.testing.assert_allclose([fold.threshold for fold in spec.folds], expected["combined"], rtol=0, atol=1e-9)
    got = answer(spec, new)
    np.testing.assert_allclose(got.score, expected["score"], rtol=0, atol=1e-9)
    assert got.votes.tolist() == expected["votes"]
    assert got.rlvo.tolist() == expected["rlvo"]
    assert 2 in expected["votes"], "no tie to break"
    assert 0 < got.rlvo.sum() < 60
    assert (got.folds, got.undecided.tolist(), got.abstained.tolist()) == (FOLDS, [0] * 60, [0] * 60)
    for i, modality in enumerate(MODALITIES):
        np.testing.assert_allclose(got.probability[modality], new[:, i].mean(axis=0))


@pytest.mark.parametrize("settings", WAYS)
def test_the_order_of_rows_records_and_patients_changes_nothing(settings: EnsembleConfig) -> None:
    predictions = stored(THREE)
    spec = fitted(THREE, predictions, settings)
    shuffled = predictions.sample(frac=1, random_state=1)
    assert study_ensembles(RECORDS[::-1], shuffled, settings)["ensemble"] == spec
    new, order = np.random.default_rng(6).random((FOLDS, 3, 30)), np.random.default_rng(7).permutation(30)
    got, permuted = answer(spec, new), answer(spec, new[:, :, order])
    np.testing.assert_array_equal(permuted.score, got.score[order])
    np.testing.assert_array_equal(permuted.rlvo, got.rlvo[order])


def test_which_number_a_fold_has_and_how_patients_are_named_changes_nothing() -> None:
    predictions, swap = stored(THREE), {0: 2, 1: 0, 2: 3, 3: 1}
    renamed = predictions.assign(
        fold=predictions["fold"].map(swap),
        member=[f"{member.rpartition('-')[0]}-f{swap[int(member[-1])]}" for member in predictions["member"]],
        patient=predictions["patient"].map(lambda name: name[::-1]),
    )
    spec, other = (fitted(THREE, table) for table in (predictions, renamed))
    new = np.random.default_rng(4).random((FOLDS, 3, 40))
    exchanged = np.empty_like(new)
    for before, after in swap.items():
        exchanged[after] = new[before]
    got, same = answer(spec, new), answer(other, exchanged)
    np.testing.assert_allclose(same.score, got.score, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same.calibrated, got.calibrated, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(same.rlvo, got.rlvo)


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("constant", [0.0, 0.4, 1.0])
def test_a_constant_member_cannot_break_the_vote(constant: float, settings: EnsembleConfig) -> None:
    predictions = stored(THREE)
    whole = fitted(THREE, predictions, settings)
    predictions.loc[predictions.member == f"{THREE[0].key}-f2", "probability"] = constant
    spec = fitted(THREE, predictions, settings)
    member = spec.folds[2].members[0]
    assert (member.tpr, member.tnr, member.better_than_chance) == (0.0, 1.0, False)
    assert np.isfinite(member.threshold)
    new = np.random.default_rng(8).random((FOLDS, 3, 50))
    new[2, 0] = constant
    got = answer(spec, new)
    assert np.isfinite(got.score).all()
    # Only fold 2 is touched: the other folds vote as they did, so a clear majority among them stands.
    others = whole.model_copy(update={"folds": tuple(fold for fold in whole.folds if fold.fold != 2)})
    votes = answer(others, new).votes
    assert (got.rlvo[votes == 3] == 1).all()
    assert (got.rlvo[votes <= 1] == 0).all()


@pytest.mark.parametrize("tie", ["negative", "positive", "margin"])
def test_a_fold_whose_member_fails_abstains_and_decides_nothing(tie: Tie) -> None:
    spec = fitted(THREE, stored(THREE), EnsembleConfig(tie=tie))
    new = np.random.default_rng(9).random((FOLDS, 3, 200))
    whole = answer(spec, new)
    failing = new.copy()
    failing[1, 2] = np.nan
    got = answer(spec, failing)
    assert got.abstained.tolist() == [1] * 200
    answered = np.isfinite(got.score)
    assert 0 < answered.sum() < 200
    np.testing.assert_array_equal(got.rlvo[answered], whole.rlvo[answered])
    # Whatever the fold would have said: tried with the lowest and the highest probabilities.
    extremes = []
    for probability in (0.0, 1.0):
        failing[1] = probability
        extremes.append(answer(spec, failing).rlvo)
    agree = extremes[0] == extremes[1]
    assert (agree >= answered).all()
    assert (agree == answered).all() or tie == "margin"  # whose bounds are those of any threshold
    failing[:, 0] = np.nan
    assert np.isnan(answer(spec, failing).score).all()
    assert np.isnan(answer(spec, failing).calibrated).all()


@pytest.mark.parametrize("settings", WAYS)
def test_a_member_that_fails_for_one_patient_touches_no_other(settings: EnsembleConfig) -> None:
    spec = fitted(THREE, stored(THREE), settings)
    new = np.random.default_rng(9).random((FOLDS, 3, 5))
    whole = answer(spec, new)
    new[:, 2, 3] = np.nan
    got = answer(spec, new)
    assert got.abstained.tolist() == [0, 0, 0, 4, 0]
    assert np.isnan(got.score).tolist() == [False, False, False, True, False]
    for name in ("score", "rlvo", "votes", "calibrated"):
        np.testing.assert_array_equal(np.delete(getattr(got, name), 3), np.delete(getattr(whole, name), 3))


def test_out_of_fold_scores_each_patient_by_its_own_fold() -> None:
    predictions = stored(THREE)
    spec = fitted(THREE, predictions)
    scored = score_out_of_fold(spec, Validation.of(predictions))
    assert scored.index.is_unique
    assert len(scored) == 25 * FOLDS
    for fold in spec.folds:
        own = scored[scored["fold"] == fold.fold]
        assert set(own.index) == {f"p{fold.fold}-{i:02d}" for i in range(25)}
        # The threshold is one patient's score: that patient's margin is exactly zero, and it counts as positive.
        assert set(own.loc[own["score"] == 0, "vote"]) == {1}
    metrics = validation_metrics(spec, predictions)
    own = scored[scored["fold"] == 1]
    assert metrics.loc[1, "sensitivity"] == own.loc[own.label == 1, "vote"].mean()
    pairs = [(a > b) + 0.5 * (a == b) for a in own.score[own.label == 1] for b in own.score[own.label == 0]]
    assert metrics.loc[1, "auc"] == pytest.approx(np.mean(pairs))


def test_an_ensembles_metrics_are_read_from_its_own_members_alone() -> None:
    """A study may have thousands of others."""
    predictions = stored([*THREE, configuration("CTA", "none")])
    spec = fitted(THREE, predictions)
    read = Validation.of_members(spec, predictions).members
    assert {*read} == {(fold.fold, member.key) for fold in spec.folds for member in fold.members}
    own = {key for _, key in read}
    alone = validation_metrics(spec, predictions[predictions["member"].isin(own)])
    pd.testing.assert_frame_equal(validation_metrics(spec, predictions), alone)


def test_several_members_of_a_modality_and_one_that_counts_twice() -> None:
    other = configuration("CTA", "none")
    predictions = stored([*THREE, other])
    twice = fitted([THREE[1], other, other], predictions)
    assert twice.configurations == (THREE[1], other, other)
    assert [member.configuration for member in twice.members] == [THREE[1], other] * FOLDS
    text = twice.model_dump_json()
    assert EnsembleSpec.model_validate_json(text) == twice
    assert "p0-" not in text  # no patient
    q = {member.key: np.random.default_rng(i).random(7) for i, member in enumerate(twice.members)}
    fold, got = twice.folds[0], apply_ensemble(twice, q)
    own = [(q[member.key], member.tpr, member.tnr) for member in fold.members]
    support = own[0][1] * own[0][0] + 2 * own[1][1] * own[1][0]
    opposition = own[0][2] * (1 - own[0][0]) + 2 * own[1][2] * (1 - own[1][0])
    np.testing.assert_allclose(fold.score(q, "class_rates"), support / (support + opposition))
    counted = [q[f"{c.key}-f{k}"] for k in range(FOLDS) for c in (THREE[1], other, other)]
    np.testing.assert_allclose(got.probability["CTA"], np.mean(counted, axis=0))


def test_the_study_declares_the_champion_its_modalities_and_every_spec() -> None:
    none = [configuration(modality, "none") for modality in MODALITIES]
    aucs = dict(zip(THREE + none, (0.6, 0.8, 0.85, 0.7, 0.7, 0.9), strict=True))
    records = [record(c, fold, auc) for c, auc in aucs.items() for fold in range(FOLDS)]
    declared = study_ensembles(records, stored(THREE + none), EnsembleConfig())
    assert set(declared) == {"ensemble", "NCCT", "CTA", "BOTH", "resnet18 daft", "resnet18 none"}
    assert declared["ensemble"].configurations == (none[0], THREE[1], none[2])
    assert declared["resnet18 none"].configurations == tuple(none)
    assert declared["CTA"].configurations == (THREE[1],)
    same = study_ensembles(records, stored(THREE + none), EnsembleConfig(selection="same_spec"))
    assert same["ensemble"].configurations == tuple(none)  # mean .767 against .75
    assert {name for name, first in first_names(same).items() if first != name} == {"resnet18 none"}
    greedy = study_ensembles(records, stored(THREE + none), EnsembleConfig(selection="greedy"))
    chosen = greedy["ensemble"].configurations
    for modality in {c.model.modality for c in chosen}:
        assert greedy[modality].configurations == tuple(c for c in chosen if c.model.modality == modality)


def test_what_is_missing_is_refused_by_name_and_left_out_where_asked() -> None:
    records = [record(c, f, 0.7) for c in THREE[:2] for f in range(FOLDS)]
    records[5] = record(THREE[1], 1, 0.7, status="failed")
    searched, lost = MODALITIES, ["trials/abc/fold-0/predictions.csv: the file is missing or altered"]
    with pytest.raises(RlvoError) as refused:
        study_ensembles(records, stored(THREE[:2]), EnsembleConfig(), modalities=searched, missing=lost)
    assert "\n" not in str(refused.value)
    for named in ("trials/abc", "no CTA configuration", "no BOTH configuration", "and 1 more", "--partial"):
        assert named in str(refused.value)
    with pytest.raises(RlvoError, match=rf"resnet18 CTA daft \({THREE[1].key}\) has no usable fold 1"):
        study_ensembles(records, stored(THREE[:2]), EnsembleConfig())

    declared = study_ensembles(
        records, stored(THREE[:2]), EnsembleConfig(), modalities=searched, missing=lost, partial=True
    )
    spec = declared["ensemble"]
    assert [c.model.modality for c in spec.configurations] == ["NCCT"]
    assert spec == fitted(THREE[:1], stored(THREE[:2]), notes=spec.notes[:4])
    assert set(lost) < set(spec.notes)
    assert any("CTA" in note and "fold 1" in note for note in spec.notes)
    assert "no BOTH members" in spec.notes
    with pytest.raises(RlvoError, match="finished all its folds"):
        study_ensembles(records[4:], stored(THREE[:2]), EnsembleConfig(), partial=True)


def test_pruned_configurations_are_not_missing() -> None:
    pruned = configuration("CTA", "none")
    records = [*RECORDS, record(pruned, 0, 0.9, status="pruned"), record(pruned, 1, 0.9)]
    spec = study_ensembles(records, stored(THREE), EnsembleConfig())["ensemble"]
    assert spec.configurations == tuple(THREE)
    assert spec.notes == ("1 pruned configuration(s) are left out",)


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
            fitted(THREE, damaged)
    other = RECORDS[0].model_copy(update={"identity": RECORDS[0].identity.model_copy(update={"split_hash": "other"})})
    with pytest.raises(RlvoError, match="different splits"):
        study_ensembles([other, *RECORDS[1:]], predictions, EnsembleConfig())


def test_fallbacks_are_the_champions_members_that_can_still_answer() -> None:
    prior = configuration("CTA", prior=True)
    every = [*THREE, prior]
    predictions = stored(every)
    settings = EnsembleConfig(weighting="mean", tie="positive", calibration="isotonic")
    champion = fitted(every, predictions, settings)
    served = {
        "without vessels": THREE,
        "without CTA": THREE[:1],
        "without NCCT": [THREE[1], prior],
        "without NCCT and vessels": [THREE[1]],
    }
    found = fit_fallbacks(champion, predictions, settings)
    assert list(found) == list(served)
    for name, configurations in served.items():
        assert found[name] == fitted(configurations, predictions, settings)
    no_prior = fit_fallbacks(fitted(THREE, predictions, settings), predictions, settings)
    assert [(name, spec.configurations) for name, spec in no_prior.items()] == [
        ("without CTA", (THREE[0],)),
        ("without NCCT", (THREE[1],)),
    ]
    assert fit_fallbacks(fitted(THREE[2:], predictions, settings), predictions, settings) == {}


def test_a_member_at_chance_once_a_volume_is_missing_abstains_then() -> None:
    both = Configuration(model=THREE[2].model, training=TrainingConfig(modality_dropout=0.3))
    every = [*THREE[:2], both]
    predictions = stored(every)
    own = predictions["member"].str.contains(both.key)
    backwards = [
        predictions[own].assign(
            member=predictions["member"] + f" without {channel}", probability=1 - predictions["probability"]
        )
        for channel in ("ncct", "cta")
    ]
    champion = fitted(every, predictions, EnsembleConfig())
    assert not any(member.abstains for member in champion.members)
    found = fit_fallbacks(champion, pd.concat([predictions, *backwards]), EnsembleConfig())["without CTA"]
    assert [member.abstains for member in found.folds[0].members] == [False, True]


def test_a_member_trained_to_do_without_a_volume_answers_without_it() -> None:
    both = Configuration(model=THREE[2].model, training=TrainingConfig(modality_dropout=0.3))
    every = [*THREE[:2], both]
    predictions = stored(every)
    rng, asked = np.random.default_rng(4), {"without CTA": ("cta",), "without NCCT": ("ncct",)}
    own = predictions["member"].str.startswith(both.key)
    extra = {
        name: predictions[own].assign(
            member=predictions["member"] + f" without {absent[0]}",
            probability=(predictions["probability"] + rng.random(len(predictions))) / 2,
        )
        for name, absent in asked.items()
    }
    settings = EnsembleConfig(weighting="mean")
    found = fit_fallbacks(fitted(every, predictions, settings), pd.concat([predictions, *extra.values()]), settings)
    assert list(found) == ["without CTA", "without NCCT"]
    for (name, spec), other in zip(found.items(), every[:2], strict=True):
        said = extra[name].assign(member=extra[name]["member"].str.partition(" ")[0])
        expected = fitted([other, both], pd.concat([predictions[~own], said]), settings)
        assert {m.configuration.key: m.absent for m in spec.members} == {other.key: (), both.key: asked[name]}
        cleared = [
            fold.model_copy(update={"members": tuple(m.model_copy(update={"absent": ()}) for m in fold.members)})
            for fold in spec.folds
        ]
        assert spec.model_copy(update={"folds": tuple(cleared)}) == expected
        assert EnsembleSpec.model_validate_json(spec.model_dump_json()) == spec
        needed = {"without CTA": {"ncct"}, "without NCCT": {"cta"}}[name]
        assert all(set(member.channels) == needed for member in spec.members)
    assert "absent" not in fitted(every, predictions, settings).model_dump_json()


@pytest.mark.slow
def test_building_needs_no_heavy_library_and_reading_a_spec_no_scikit_learn(tmp_path: Path) -> None:
    stored(THREE).to_pickle(tmp_path / "predictions")
    pd.to_pickle(RECORDS, tmp_path / "records")
    script = f"""
import sys
import pandas as pd
from rlvo.config.model import Configuration
from rlvo.config.training import TrainingConfig
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.spec import EnsembleSpec
assert "sklearn" not in sys.modules
from rlvo.ensemble import build, comparison
from rlvo.study import folder
records, predictions = pd.read_pickle(r"{tmp_path / "records"}"), pd.read_pickle(r"{tmp_path / "predictions"}")
specs = build.study_ensembles(records, predictions, EnsembleConfig(selection="greedy"))
build.fit_fallbacks(specs["ensemble"], predictions, EnsembleConfig(selection="greedy"))
comparison.compare_ensembles(records, predictions, [EnsembleConfig(selection="same_spec", weighting="mean")])
print([name for name in ("torch", "monai", "ray", "optuna", "mlflow", "SimpleITK") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy"])
def test_a_member_no_better_than_chance_abstains_unless_the_study_began_before(weighting: Weighting) -> None:
    predictions = stored(THREE)
    hopeless = predictions["member"].isin([f"{THREE[0].key}-f1"])
    reversed_ = (1 - predictions["label"]) * 0.5 + predictions["probability"] * 0.01
    predictions["probability"] = predictions["probability"].mask(hopeless, reversed_)
    settings = [EnsembleConfig(weighting=weighting, chance_members=rule) for rule in ("abstain", "count")]
    now, before = (study_ensembles(RECORDS, predictions, each)["ensemble"] for each in settings)
    member = next(m for m in now.folds[1].members if m.configuration == THREE[0])
    assert (member.tpr, member.tnr, member.abstains) == (0, 1, True)
    assert any("is no better than chance and abstains" in note for note in now.notes)
    new = np.random.default_rng(3).random((FOLDS, 3, 40))
    probabilities = {m.key: new[f.fold, i] for f in now.folds for i, m in enumerate(f.members)}
    others = now.folds[1].model_copy(update={"members": tuple(m for m in now.folds[1].members if not m.abstains)})
    np.testing.assert_array_equal(now.folds[1].score(probabilities, weighting), others.score(probabilities, weighting))
    assert (before.folds[1].score(probabilities, weighting) != others.score(probabilities, weighting)).any()
    # Older ensembles read back with the hash they had.
    assert not any(member.abstains for member in before.members)
    assert "abstains" not in before.model_dump_json()
    for spec in (now, before):
        assert EnsembleSpec.model_validate_json(spec.model_dump_json()) == spec


def exaggerate(predictions: pd.DataFrame, member: int, factor: float, offset: float) -> pd.DataFrame:
    """One configuration's log-odds times a factor, plus an offset."""
    own = predictions["member"].str.startswith(THREE[member].key)
    p = predictions["probability"].clip(0.01, 0.99)
    return predictions.assign(probability=np.where(own, expit(factor * logit(p) + offset), p))


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_on_one_scale_it_does_not_matter_how_confident_a_member_is(weighting: Weighting) -> None:
    predictions, settings = stored(THREE), EnsembleConfig(member_scale="platt", weighting=weighting)
    spec = fitted(THREE, exaggerate(predictions, 1, 1.0, 0.0), settings)
    bold = fitted(THREE, exaggerate(predictions, 1, 2.0, 1.0), settings)
    new = np.random.default_rng(8).uniform(0.05, 0.95, (FOLDS, 3, 50))
    boldly = new.copy()
    boldly[:, 1] = expit(2 * logit(new[:, 1]) + 1)
    got, expected = answer(bold, boldly), answer(spec, new)
    np.testing.assert_allclose(got.score, expected.score, rtol=0, atol=1e-4)
    for modality in MODALITIES:
        np.testing.assert_allclose(got.probability[modality], expected.probability[modality], rtol=0, atol=1e-4)
    raw = EnsembleConfig(weighting="mean")
    unscaled = [answer(fitted(THREE, exaggerate(predictions, 1, *by), raw), each)
                for by, each in (((1.0, 0.0), new), ((2.0, 1.0), boldly))]  # fmt: skip
    assert np.abs(unscaled[0].score - unscaled[1].score).max() > 0.02


def test_a_members_scale_is_platts_fit_to_its_own_validation_patients() -> None:
    predictions = stored(THREE)
    spec = fitted(THREE, predictions, EnsembleConfig(member_scale="platt"))
    for fold in spec.folds:
        for member in fold.members:
            rows = predictions[(predictions["member"] == member.key) & (predictions["split"] == "validation")]
            label, z = rows["label"].to_numpy(), logit(rows["probability"].clip(1e-6, 1 - 1e-6)).to_numpy()
            positives, negatives = label.sum(), (1 - label).sum()
            target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
            own = member.scaled(expit(z))
            # The score equations of a logistic regression: residuals are orthogonal to 1 and to the log-odds.
            assert np.sum(own - target) == pytest.approx(0, abs=1e-3)
            assert np.sum((own - target) * z) == pytest.approx(0, abs=1e-3)


def test_an_ensemble_of_before_has_the_json_and_hash_that_it_had() -> None:
    (fold, *_) = fitted(THREE, stored(THREE)).model_dump(mode="json")["folds"]
    assert set(fold) == {"fold", "members", "threshold", "better_than_chance"}
    known = {"configuration", "fold", "threshold", "tpr", "tnr", "better_than_chance"}
    assert all(set(member) == known for member in fold["members"])
    stacked = fitted(THREE, stored(THREE), EnsembleConfig(member_scale="platt", weighting="stacked"))
    assert EnsembleSpec.model_validate_json(stacked.model_dump_json()) == stacked
    assert stacked.folds[0].stack is not None
    assert "member_scale" not in EnsembleConfig().model_dump_json()
