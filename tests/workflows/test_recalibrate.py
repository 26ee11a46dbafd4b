"""Recalibration: only the probability changes, as a version of its own, and who was used is known."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from support.commands import refused
from support.registered_study import Registered

from rlvo.about import __version__
from rlvo.config.workdir import Workdir
from rlvo.ensemble.calibration import Isotonic, Platt, fit_update, update_calibrator
from rlvo.files import atomic_write, file_sha256
from rlvo.inference.description import DESCRIPTION, WEIGHTS
from rlvo.registry.card import CARD
from rlvo.registry.location import ARTIFACT_PATH, locate_model
from rlvo.registry.register import code_hash, code_provenance
from rlvo.workflows.external import FITTED_TO
from rlvo.workflows.recalibrate import Recalibration, _update, recalibrate
from rlvo.workflows.study import tracking_of


def test_the_update_is_the_logistic_fit_of_the_log_odds() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.6, 800)
    y = (rng.random(800) < expit(0.7 + 1.6 * logit(p))).astype(int)
    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    found = fit_update(y, p, with_slope=True)
    np.testing.assert_allclose(found, (fit.intercept_[0], fit.coef_[0, 0]), rtol=1e-4)
    intercept, slope = fit_update(y, p, with_slope=False)
    assert slope == 1
    assert expit(intercept + logit(p)).sum() == pytest.approx(y.sum())


@pytest.mark.parametrize(
    "calibrator",
    [Platt(slope=4.0, intercept=-1.5), Isotonic(margins=(-0.2, 0.0, 0.3), probabilities=(0.05, 0.2, 0.7))],
)
def test_an_updated_calibrator_gives_the_updated_log_odds(calibrator: Platt | Isotonic) -> None:
    margins = np.array([-0.2, 0.0, 0.3])
    expected = expit(0.4 + 1.3 * logit(calibrator.probability(margins)))
    np.testing.assert_allclose(update_calibrator(calibrator, 0.4, 1.3).probability(margins), expected, rtol=1e-9)


@dataclass(frozen=True)
class Hospital:
    work: Workdir
    table: Path
    found: Recalibration


@pytest.fixture(scope="module")
def hospital(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Other patients with the scans of the tiny study, to whom its model was recalibrated."""
    root = tmp_path_factory.mktemp("recalibrated")
    study = registered.study.copy(root / "work")
    rows = pd.read_csv(study.cohort)
    rows["patient_id"] = [f"B-{number}" for number in range(len(rows))]
    rows["rlvo"] = np.arange(len(rows)) % 2
    rows["age"] = (rows["age"] + 7) % 50 + 40
    for name in ("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"):
        rows[name] = (rows[name] * 0.83 + 1).round(2)
    for name in ("ncct", "cta", "vessels"):
        rows[name] = [str(study.cohort.parent / path) for path in rows[name]]
    rows.to_csv(root / "hospital-b.csv", index=False)
    found = recalibrate("rlvo-ensemble@champion", root / "hospital-b.csv", study.workdir)
    return Hospital(study.workdir, root / "hospital-b.csv", found)


@pytest.mark.slow
def test_only_the_probability_changes_and_the_champion_stays(hospital: Hospital) -> None:
    client = MlflowClient(hospital.work.tracking_uri())
    found = hospital.found
    assert (found.old, found.new, found.patients, found.positives, found.slope) == ("1", "2", 24, 12, 1)
    assert str(client.get_model_version_by_alias("rlvo-ensemble", "champion").version) == "1"
    version = client.get_model_version("rlvo-ensemble", "2")
    assert version.tags["rlvo.gate"].startswith("passed: 8 patients")
    assert version.tags["rlvo.recalibrated"].startswith("recalibrated from version 1 on 24 patients, 12 with rLVO")
    assert version.description.startswith("**Recalibrated from version 1 on 24 patients")
    for text in (version.description, *version.tags.values()):
        assert "B-" not in text
        assert "hospital-b" not in text
    old, new = (
        locate_model(f"rlvo-ensemble/{number}", tracking_of(hospital.work)) / ARTIFACT_PATH for number in (1, 2)
    )
    assert file_sha256(old / WEIGHTS) == file_sha256(new / WEIGHTS)
    before, after = (json.loads((root / DESCRIPTION).read_bytes()) for root in (old, new))
    for variant, other in zip(before["variants"], after["variants"], strict=True):
        own, changed = variant["spec"].pop("calibration"), other["spec"].pop("calibration")
        assert changed["intercept"] == pytest.approx(own["intercept"] + found.intercept)
        assert changed["slope"] == pytest.approx(own["slope"])
    assert before["variants"] == after["variants"]
    assert (
        after["provenance"]["code_hash"]
        == code_hash(new.parents[1] / "code" / "rlvo")
        == version.tags["rlvo.code_hash"]
    )
    assert f"({version.tags['rlvo.code_hash'][:12]}); below stands what it was made from.**" in version.description
    card = (new.parents[1] / CARD).read_text()
    assert card.endswith((old.parents[1] / CARD).read_text())


def test_who_it_was_fitted_to_and_the_code_are_told_after_every_recalibration(tmp_path: Path) -> None:
    content = {
        "variants": [{"spec": {"calibration": None}}],
        "provenance": {"study": "tiny", "code_hash": "older", "commit": "older", FITTED_TO: "b"},
        "rlvo_version": "0.0",
    }
    atomic_write(tmp_path / "ensemble.json", json.dumps(content))
    _update(tmp_path / "ensemble.json", 0.1, 1.0, "recalibrated", "c")
    told = json.loads((tmp_path / "ensemble.json").read_bytes())
    assert told["provenance"] == {
        "study": "tiny",
        "recalibrated": "recalibrated",
        FITTED_TO: "b c",
        **code_provenance(),
    }
    assert told["rlvo_version"] == __version__


@pytest.mark.slow
def test_the_patients_it_was_fitted_to_do_not_evaluate_it(hospital: Hospital) -> None:
    refusal = refused("evaluate", "rlvo-ensemble/2", hospital.table, "--workdir", hospital.work.path)
    assert "the model was recalibrated on 24 of these patients" in refusal


@pytest.mark.slow
def test_too_few_patients_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    pd.read_csv(hospital.table).head(9).to_csv(few, index=False)
    refusal = refused("recalibrate", "rlvo-ensemble/1", few, "--workdir", hospital.work.path)
    assert "of 9 patients with a probability 4 have rLVO" in refusal
