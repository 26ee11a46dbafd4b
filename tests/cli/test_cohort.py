"""`rlvo validate`, `baseline`, `prepare` and `import-isles`: a cohort's table and volumes, before any study."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from support import commands
from support.commands import call
from support.privacy import open_to_others

from rlvo.cohort.splits import Split, make_split, write_split
from rlvo.config.grid import PRESETS
from rlvo.config.sections import FoldsConfig
from rlvo.config.study import StudyConfig
from rlvo.errors import CohortError, RlvoError
from rlvo.files import atomic_write
from rlvo.study.folder import StudyFolder
from rlvo.synthetic.cohort import write_synthetic_cohort

FOCUS = PRESETS["focus"]


@pytest.fixture
def table() -> pd.DataFrame:
    """120 patients whose rLVO depends on the NIHSS."""
    random = np.random.default_rng(0)
    n = 120
    nihss = random.integers(0, 30, n)
    flags = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "ivt", "unwitnessed_onset")
    tmax6 = random.uniform(20, 200, n).round(1)
    return pd.DataFrame(
        {
            "patient_id": [f"{i:03d}" for i in range(n)],
            "age": random.integers(40, 95, n),
            "sex": random.choice(["F", "M"], n),
            **{name: random.integers(0, 2, n) for name in flags},
            "nihss": nihss,
            "occlusion_side": random.choice(["left", "right"], n),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "cbf_lt30_ml": random.uniform(0, 40, n).round(1),
            "tmax_gt4_ml": (2 * tmax6).round(1),
            "tmax_gt6_ml": tmax6,
            "tmax_gt10_ml": (tmax6 / 4).round(1),
            "aspects": random.integers(5, 11, n),
            "rlvo": (random.random(n) < 1 / (1 + np.exp(-(nihss - 18) / 4))).astype(int),
        }
    )


def write(table: pd.DataFrame, folder: Path) -> str:
    table.to_csv(folder / "cohort.csv", index=False)
    return str(folder / "cohort.csv")


def run(*arguments: object) -> str:
    """Everything that a command which ends well prints, but the progress it shows."""
    result = commands.run(*arguments)
    return result.stdout if "--json" in arguments else result.output


def test_validate_counts_what_it_finds(tmp_path: Path, table: pd.DataFrame) -> None:
    rlvo = int(table["rlvo"][2:].sum())
    table = table.assign(synchronous_occlusions=(table.index < 2).astype(int), favourite_colour="blue")
    table.loc[5:7, "age"] = np.nan
    summary = json.loads(run("validate", write(table, tmp_path), "--json"))
    assert len(summary["split"].pop("hash")) == 64
    [note] = summary["split"].pop("notes")
    assert "20% are held out at random, seed 0" in note
    assert [row["variable"] for row in summary.pop("table_one")][:2] == ["Patients", "Age, years"]
    assert summary == {
        "sound": True,
        "findings": [],
        "patients": 120,
        "volumes": False,
        "excluded": {"synchronous occlusions": ["000", "001"], "more than 3 CTP variables missing": []},
        "included": 118,
        "rlvo": rlvo,
        "split": {"test": 24, "folds": [24, 24, 23, 23], "studies": []},
        "missing": {"age": 3},
        "ignored_columns": ["favourite_colour"],
    }
    text = run("validate", write(table, tmp_path))
    for expected in ("patients", "120", "synchronous occlusions", "118", "age 3", "favourite_colour", "tabular cohort"):
        assert expected in text
    assert "Table 1" in text


def test_validate_takes_other_predictors(tmp_path: Path, table: pd.DataFrame) -> None:
    small = table[["patient_id", "age", "nihss", "rlvo"]]
    assert json.loads(run("validate", write(small, tmp_path), "--predictors", "age, nihss", "--json"))["excluded"] == {}
    with pytest.raises(CohortError, match="sex: the column is missing"):
        run("validate", write(small, tmp_path))
    with pytest.raises(RlvoError, match="etici is an outcome"):
        run("validate", write(small, tmp_path), "--predictors", "age,etici")


def test_findings_come_as_a_table_in_json_and_on_a_page(tmp_path: Path, table: pd.DataFrame) -> None:
    table.loc[3, "age"] = 200
    page = tmp_path / "page.html"
    arguments = ["validate", write(table.drop(columns="ivt"), tmp_path), "--json", "--html", str(page)]
    result = call(*arguments)
    assert isinstance(result.exception, CohortError)
    assert result.exception.exit_code == 2
    found = json.loads(result.stdout)
    assert found["sound"] is False
    by_column = {finding["column"]: finding for finding in found["findings"]}
    assert set(by_column) == {"age", "ivt"}
    told = by_column["age"]
    assert (told["patient"], told["value"], told["allowed"]) == ("003", "200", "0 to 120 years")
    assert set(told) == {"patient", "column", "value", "what", "allowed", "fix"}
    assert "0 to 120 years" in page.read_text()
    assert "003" in page.read_text()
    assert page.stat().st_mode & 0o077 == 0


def test_columns_of_other_names_are_read_where_they_are_mapped(tmp_path: Path, table: pd.DataFrame) -> None:
    path = write(table.rename(columns={"age": "Edad", "sex": "Sexo"}), tmp_path)
    (tmp_path / "mapping.yaml").write_text("age: nobody\nsex: Sexo\n")
    mapping = ("--mapping", str(tmp_path / "mapping.yaml"), "--map", "age=Edad")
    assert json.loads(run("validate", path, *mapping, "--json"))["included"] == 120
    assert "all clinical" in run("baseline", path, *mapping)
    with pytest.raises(CohortError, match="age"):
        run("validate", path, "--map", "sex=Sexo")


def test_a_predictor_that_knows_too_much_is_a_finding(tmp_path: Path, table: pd.DataFrame) -> None:
    page = tmp_path / "page.html"
    path = write(table.assign(smoking=table["rlvo"]), tmp_path)
    result = call("validate", path, "--json", "--html", page)
    assert isinstance(result.exception, CohortError)
    found = json.loads(result.stdout)
    assert found["sound"] is False
    assert [finding["column"] for finding in found["findings"]] == ["smoking"]
    assert "suspected leak" in page.read_text()
    assert "Table 1</h2>" in page.read_text()


def test_the_test_set_plays_no_part_in_the_leak_check(tmp_path: Path, table: pd.DataFrame) -> None:
    """Whatever the smoking of test patients is, it separates the classes of the others."""
    label = table.set_index("patient_id")["rlvo"]
    is_test = table["patient_id"].isin(make_split(label, FoldsConfig()).test)
    hidden = table.assign(smoking=table["rlvo"].where(~is_test, 1 - table["rlvo"]))
    found = call("validate", write(hidden, tmp_path), "--json")
    assert "AUC 1.00" in json.loads(found.stdout)["findings"][0]["what"]


@pytest.mark.parametrize("arguments", [("validate", "--html"), ("validate", "--pictures"), ("baseline", "--pictures")])
def test_a_place_that_cannot_be_written_is_named(
    arguments: tuple[str, str], tmp_path: Path, table: pd.DataFrame
) -> None:
    command, option = arguments
    path = write(table, tmp_path)
    with pytest.raises(RlvoError, match=r"cohort.csv.*cannot be written"):
        run(command, path, option, f"{path}/below")


def test_the_page_and_pictures_name_no_patient_of_a_sound_cohort(tmp_path: Path, table: pd.DataFrame) -> None:
    named = table.assign(
        patient_id="Perez-" + table["patient_id"], synchronous_occlusions=(table.index < 2).astype(int)
    )
    named.loc[5:7, "age"] = np.nan
    run("validate", write(named, tmp_path), "--html", str(tmp_path / "page.html"), "--pictures", str(tmp_path / "out"))
    page = (tmp_path / "page.html").read_text()
    assert "Perez" not in page
    assert page.count("p-") >= 2, "pseudonyms of the excluded"
    assert page.count("<img") == 2
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{name}.{kind}" for name in ("flow_chart", "missing_values") for kind in ("svg", "png")}


def test_baseline_finds_the_signal_where_it_is(tmp_path: Path, table: pd.DataFrame) -> None:
    path = write(table, tmp_path)
    everything = json.loads(run("baseline", path, "--json"))
    found = everything["validation"]
    assert list(found) == [
        "NIHSS",
        "ASPECTS",
        "NIHSS + ASPECTS",
        "all clinical",
        "all clinical, ridge",
        "all clinical, boosted",
    ]
    assert found["NIHSS"]["auc"]["mean"] > 0.8 > 0.7 > found["ASPECTS"]["auc"]["mean"]
    odds = {row["term"]: row for row in everything["odds_ratios"]}
    assert 1 < odds["nihss"]["low"] < odds["nihss"]["odds_ratio"] < odds["nihss"]["high"]
    assert set(everything["calibration"]) == {"all clinical", "all clinical, boosted"}
    text = run("baseline", path, "--pictures", str(tmp_path / "pictures"))
    assert len(list((tmp_path / "pictures").iterdir())) == 6
    assert "Optimistic" in text
    assert f"{found['NIHSS']['auc']['mean']:.2f}±{found['NIHSS']['auc']['sd']:.2f}" in text


def test_baseline_opens_no_test_patient(tmp_path: Path, table: pd.DataFrame) -> None:
    before = run("baseline", write(table, tmp_path), "--json")
    test = make_split(table.set_index("patient_id")["rlvo"], FoldsConfig()).test
    changed = table.copy()
    changed.loc[changed["patient_id"].isin(test), ["age", "nihss", "aspects", "cbf_lt30_ml"]] = 1
    assert run("baseline", write(changed, tmp_path), "--json") == before


def start_study(name: str, seed: int, table: pd.DataFrame, folder: Path) -> Split:
    """Leave in the work folder what a study of the patients leaves that was started, and a YAML file; its split."""
    cohort = folder / f"{name}.csv"
    table.to_csv(cohort, index=False)
    config = StudyConfig.model_validate({"name": name, "cohort": {"table": cohort}, "folds": {"seed": seed}})
    split = make_split(table.set_index("patient_id")["rlvo"], config.folds)
    study = StudyFolder(folder / "work" / "studies" / name)
    atomic_write(study.config, config.model_dump_json())
    write_split(split, study.split)
    return split


def split_of(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(commands.run(*arguments, "--json").stdout)["split"]
    return found


@pytest.mark.parametrize("renamed", [False, True])
def test_whom_the_work_folders_study_holds_out_is_held_out(tmp_path: Path, table: pd.DataFrame, renamed: bool) -> None:
    split = start_study("seeded", 2025, table, tmp_path)
    is_test = table["patient_id"].isin(split.test)
    table["patient_id"] = "x" * renamed + table["patient_id"]
    given = ("baseline", write(table, tmp_path), "--workdir", tmp_path / "work")
    before = json.loads(run(*given, "--json"))
    assert before["split"]["studies"] == ["seeded"]
    assert before["split"]["notes"] == ["the split of study seeded"]
    assert before["development"]["patients"] == len(split.development)
    assert (before["split"]["hash"] == split.hash) is not renamed
    write(table.assign(rlvo=table["rlvo"].where(~is_test, 1 - table["rlvo"])), tmp_path)
    after = json.loads(run(*given, "--json"))
    same = ("development", "validation", "odds_ratios", "calibration", "split")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_with_several_studies_all_their_hold_outs_are_held_out(tmp_path: Path, table: pd.DataFrame) -> None:
    a, b = (start_study(name, seed, table, tmp_path) for seed, name in enumerate("ab"))
    given = ("validate", write(table, tmp_path), "--workdir", tmp_path / "work")
    both = split_of(*given)
    assert (both["studies"], both["test"]) == (["a", "b"], len({*a.test, *b.test}))
    assert len(both["notes"]) == 1
    one = split_of(*given, "--study", "b")
    assert (one["studies"], one["hash"]) == (["b"], b.hash)
    exposed = len({*a.test} - {*b.test})
    assert one["notes"][1:] == [f"{exposed} patients whose outcomes are shown are in the hold-out of study a"]


def test_new_patients_are_not_split_by_the_few_a_study_knows(tmp_path: Path, table: pd.DataFrame) -> None:
    table["nihss"] = table["nihss"].sample(frac=1, random_state=0).to_numpy()  # too telling in a few patients
    split = start_study("small", 0, table.head(40), tmp_path)
    found = split_of("validate", write(table, tmp_path), "--workdir", tmp_path / "work")
    assert (found["test"], sum(found["folds"])) == (len(split.test), 120 - len(split.test))
    named = json.loads(
        run("validate", write(table, tmp_path), "--workdir", tmp_path / "work", "--study", "small", "--json")
    )
    assert named["excluded"]["not in study small"] == table["patient_id"][40:].tolist()
    assert named["split"]["hash"] == split.hash


def test_a_study_that_was_not_started_is_split_as_it_will_be(tmp_path: Path, table: pd.DataFrame) -> None:
    (tmp_path / "five.yaml").write_text("name: five\nfolds: {folds: 5, seed: 7}\n")
    given = ("validate", write(table, tmp_path), "--workdir", tmp_path / "work")
    expected = make_split(table.set_index("patient_id")["rlvo"], FoldsConfig(folds=5, seed=7))
    assert split_of(*given, "--study", tmp_path / "five.yaml")["hash"] == expected.hash
    assert "no study was started here" in commands.refused(*given, "--study", "five")
    start_study(
        "other", 0, table.assign(age=1, nihss=1, tmax_gt6_ml=1).assign(patient_id="o" + table["patient_id"]), tmp_path
    )
    assert "none of its included patients" in commands.refused(*given, "--study", "other")


def test_baseline_goes_without_aspects_and_says_so(tmp_path: Path, table: pd.DataFrame) -> None:
    path = write(table.drop(columns="aspects"), tmp_path)
    found = json.loads(run("baseline", path, "--json"))
    assert list(found["validation"]) == ["NIHSS", "all clinical", "all clinical, ridge", "all clinical, boosted"]
    assert found["left_out"] == ["ASPECTS", "NIHSS + ASPECTS"]
    assert "left out because their columns are missing: ASPECTS, NIHSS + ASPECTS" in run("baseline", path)


def test_isles_becomes_a_cohort_table_that_cannot_train(tmp_path: Path) -> None:
    phenotype = tmp_path / "phenotype" / "sub-stroke0001" / "ses-01"
    phenotype.mkdir(parents=True)
    (tmp_path / "raw_data" / "sub-stroke0001" / "ses-01").mkdir(parents=True)
    header = "Age,Sex,Hypertension,NIHSS at admission"
    (phenotype / "sub-stroke0001_ses-01_demographic_baseline.csv").write_text(f"{header}\n71,F,1,12\n")
    text = run("import-isles", str(tmp_path), str(tmp_path / "out"))
    assert "1 patients" in text
    assert "cannot train rLVO" in " ".join(text.split())
    report = json.loads(commands.run("import-isles", tmp_path, tmp_path / "out", "--json").stdout)
    assert report["missing"]["smoking"] == 1
    written = pd.read_csv(tmp_path / "out" / "cohort.csv", dtype=str)
    assert list(written[["patient_id", "age", "sex", "nihss"]].iloc[0]) == ["sub-stroke0001", "71", "F", "12"]
    assert not open_to_others(tmp_path / "out", "sub-stroke0001")
    with pytest.raises(CohortError, match="cannot train rLVO"):
        run("validate", str(tmp_path / "out" / "cohort.csv"))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_synthetic_cohort(tmp_path / "cohort", patients=10, profile="demo", seed=0, grid=FOCUS, workers=1)
    return tmp_path / "cohort" / "cohort.csv"


def arguments(cohort: Path, *more: str) -> list[object]:
    return ["prepare", cohort, "--grid", "focus", "--workdir", cohort.parent / "work", "--workers", 1, *more]


def test_every_patient_is_prepared(cohort: Path) -> None:
    patients = json.loads(commands.run(*arguments(cohort, "--json")).stdout)["patients"]
    assert [each["patient_id"] for each in patients] == list(pd.read_csv(cohort, dtype=str)["patient_id"])
    assert {each["status"] for each in patients} == {"prepared"}
    assert {each["reason"] for each in patients} == {None}
    transform = sitk.ReadTransform(patients[0]["transforms"]["ncct"])
    assert transform.TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)
    store = cohort.parent / "work" / "store"
    assert len(list(store.glob("*/*/cta.npy"))) == 10
    pictures = list((store / "contact-sheets" / "cohort" / "pictures").glob("*.png"))
    assert len(pictures) == 10
    assert not open_to_others(cohort.parent, *(each["patient_id"] for each in patients))
    drawn = {path: path.stat().st_mtime_ns for path in pictures}
    assert "10 prepared, 0 to review, 0 refused" in run(*arguments(cohort))
    assert {path: path.stat().st_mtime_ns for path in pictures} == drawn


def test_a_store_elsewhere_on_the_grid_of_a_study(cohort: Path, tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    config.write_text("name: x\ngrid: {shape: [20, 20, 20], spacing: [4, 4, 4], origin: [-62, -35, -40]}\n")
    table = pd.read_csv(cohort, dtype=str).head(1)
    table.to_csv(cohort, index=False)
    for column in ("ncct", "cta", "vessels"):
        image = nibabel.load(cohort.parent / table[column][0])
        nibabel.save(image.slicer[:20, :20, :20], cohort.parent / table[column][0])
    run("prepare", cohort, "--config", config, "--store", tmp_path / "elsewhere", "--workers", 1)
    (volume,) = (tmp_path / "elsewhere").glob("*/*/ncct.npy")
    assert np.load(volume).shape == (20, 20, 20)


def test_refused_patients_are_told_the_others_prepared_and_other_columns_not_looked_at(cohort: Path) -> None:
    table = pd.read_csv(cohort, dtype=str).assign(age="old", rlvo="9")
    ncct = cohort.parent / table.loc[3, "ncct"]
    ncct.write_bytes(ncct.read_bytes()[:-100])
    cta = cohort.parent / table.loc[5, "cta"]
    nibabel.save(nibabel.Nifti1Image(np.zeros((*FOCUS.shape, 2), dtype=np.int16), FOCUS.affine), cta)
    table.loc[7, "ncct"] = "not-there.nii.gz"
    table.to_csv(cohort, index=False)
    result = call(*arguments(cohort, "--json"))
    assert isinstance(result.exception, RlvoError)
    assert result.exception.exit_code == 2
    assert "3 of 10 patients refused" in str(result.exception)
    patients = json.loads(result.stdout)["patients"]
    assert [each["patient_id"] for each in patients] == table["patient_id"].tolist()
    assert {each["status"] for each in patients} == {"prepared", "refused"}
    refused = {number: each["reason"] for number, each in enumerate(patients) if each["status"] == "refused"}
    assert list(refused) == [3, 5, 7]
    for reason, part in zip(refused.values(), ("truncated", "4-D", "no such file"), strict=True):
        assert part in reason
