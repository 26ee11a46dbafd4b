"""A predictor of one's own from the table to a new patient's answer."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import refused, run
from support.small_study import MakeStudy
from support.tiny_study import write_cohort

import rlvo
from rlvo.cohort.reading import read_cohort
from rlvo.config.loading import parse_study
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.baseline import BASELINES, clinical_baseline, clinical_odds
from rlvo.workflows.cohort import examine_cohort

SIPHON = {"name": "siphon", "kind": "continuous", "unit": "mm3", "range": [0, 2000], "source": "Calcio (mm3)"}
COLLATERALS = {"name": "collaterals", "kind": "ordinal", "levels": ["none", "poor", "good"]}


@pytest.fixture(scope="module")
def own_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 synthetic patients without volumes; calcium goes with rLVO, collaterals do not."""
    folder = tmp_path_factory.mktemp("own")
    write_synthetic_cohort(folder, patients=400, profile="paper", seed=0, volumes=False)
    path, random = folder / "cohort.csv", np.random.default_rng(17)  # not the cohort's own draws
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    label = read_cohort(path, need_volumes=False).label.reindex(table["patient_id"], fill_value=0).to_numpy()
    table["Calcio (mm3)"] = (300 + 120 * label + random.normal(0, 100, 400)).clip(0).round(1)
    table["collaterals"] = random.choice(["none", "poor", "good"], 400)
    table.to_csv(path, index=False)
    return path


def test_a_baseline_gains_what_an_informative_column_knows(own_cohort: Path) -> None:
    aucs, terms = [], []
    for own in ([], [SIPHON, COLLATERALS]):
        study = parse_study({"name": "own", "cohort": {"predictors": [*PAPER_PREDICTORS, *own]}})
        examined = examine_cohort(own_cohort, study=study)
        cohort = examined.cohort
        given = cohort.included, cohort.label, examined.split, examined.predictors
        ridge = clinical_baseline(*given, BASELINES["all clinical, ridge"], own=cohort.own)
        aucs.append(ridge.validation_metrics()["auc"].mean())
        terms.append(clinical_odds(*given, own=cohort.own).set_index("term"))
        shown = set(examined.table_one["variable"])
        assert ({"Siphon, mm3", "Collaterals, none", "Collaterals, good"} <= shown) == bool(own)
    assert aucs[1] > aucs[0] + 0.05
    assert terms[1].loc["siphon", "unit"] == "per 100 mm3"
    wider = [OwnPredictor.model_validate(SIPHON | {"range": [0, 20_000]}), cohort.own[1]]
    in_thousands = clinical_odds(*given, own=wider).set_index("term")
    assert in_thousands.loc["siphon", "unit"] == "per 1000 mm3"
    assert in_thousands.loc["siphon", "odds_ratio"] == pytest.approx(
        terms[1].loc["siphon", "odds_ratio"] ** 10, rel=1e-3
    )
    assert terms[1].loc["collaterals", "unit"] == "per level"
    assert terms[1].loc["siphon", "low"] > 1


def test_nothing_is_learned_from_who_is_held_out_or_validates(own_cohort: Path) -> None:
    study = parse_study({"name": "own", "cohort": {"predictors": ["age", SIPHON, COLLATERALS]}})
    examined = examine_cohort(own_cohort, study=study)
    cohort, split, table = examined.cohort, examined.split, examined.cohort.included
    moved = table.copy()
    moved.loc[list(split.test), ["siphon", "collaterals"]] = [1999.0, "none"]
    moved.loc[list(split.validation(0)), ["siphon", "collaterals"]] = [0.0, "good"]
    before, after = (
        clinical_baseline(
            each, cohort.label, split, examined.predictors, BASELINES["all clinical, ridge"], own=cohort.own
        )
        for each in (table, moved)
    )
    assert before.folds[0].encoder == after.folds[0].encoder
    np.testing.assert_array_equal(before.folds[0].probability(table), after.folds[0].probability(table))
    assert before.folds[1].encoder != after.folds[1].encoder  # whom the first fold validates trains the second


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_from_the_table_to_a_new_patient(make_small: MakeStudy, tmp_path: Path) -> None:
    path, work = write_cohort(tmp_path / "hospital"), tmp_path / "work"
    table, random = pd.read_csv(path), np.random.default_rng(1)
    table["Calcio (mm3)"] = (150 + 150 * table["rlvo"] + random.normal(0, 100, 24)).clip(1).round(1)
    table["collaterals"] = random.choice(["none", "poor", "good"], 24)
    table.to_csv(path, index=False)
    config = make_small(
        "own",
        cohort={"predictors": ["age", "nihss", SIPHON, COLLATERALS]},
        space={"enumerate": {"model.fusion": ["daft"]}},
    )
    file = tmp_path / "own.yaml"
    file.write_text(config.model_dump_json())
    told = json.loads(run("validate", path, "--study", file, "--workdir", work, "--json").stdout)
    assert (told["sound"], told["ignored_columns"]) == (True, [])
    run("search", file, "--cohort", path, "--workdir", work)
    other = file.with_name("other.yaml")
    other.write_text(config.model_dump_json().replace("2000", "3000"))
    assert "has other settings (cohort.predictors" in refused("search", other, "--cohort", path, "--workdir", work)
    run("ensemble", "own", "--partial", "--workdir", work)

    model = rlvo.load_model("rlvo-ensemble@champion", work)
    card = (model.folder / "card.md").read_text()
    assert "- The column `siphon` is the study's own: continuous, 0 to 2000 mm3" in card
    assert "Siphon: " in card
    new = table.head(2).drop(columns="rlvo").assign(patient_id=["new-1", "new-2"])
    new["Calcio (mm3)"], new["collaterals"] = [1900, 2100], ["None", "fair"]
    new.to_csv(path.with_name("new.csv"), index=False)
    first, second = model.predict(path.with_name("new.csv"))["warnings"]
    assert "Siphon: 1900 mm3 counts as the nearest in training" in first
    assert "imputed" not in first
    assert "siphon: '2100' is not allowed (allowed: 0 to 2000 mm3)" in second
    assert "collaterals: 'fair' is not allowed (allowed: none, poor, good)" in second
    assert "imputed: Siphon, Collaterals" in second
    explained = model.explain(path.with_name("new.csv"), "new-1", tmp_path / "page.html", check=False)
    assert set(explained.values["predictor"]) == {"age", "nihss", "siphon", "collaterals"}
    assert "Siphon, mm3" in (tmp_path / "page.html").read_text()
