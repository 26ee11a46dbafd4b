"""A first study fits its table and its machine, and runs as it is written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.reading import read_cohort
from rlvo.cohort.splits import make_split
from rlvo.cohort.variables import CTP, PERFUSION_VOLUMES
from rlvo.config.loading import load_study
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.study import StudyConfig
from rlvo.errors import CohortError, RlvoError
from rlvo.imaging.biomarkers import declarations
from rlvo.search.plan import plan_study
from rlvo.workflows.first_study import LEAST_IN_FOLD, Machine, check_target, propose_study

LAPTOP = Machine("this machine", 2, 0)
SERVER = Machine("this machine", 32, 2, 80.0)
SMALL_GPU = Machine("this machine", 8, 1, 24.0)
CLUSTER = Machine("the cluster", 64, 4)


def cohort(folder: Path, patients: int = 120, rlvo: int = 40) -> pd.DataFrame:
    """A table of random patients, whose volumes are there by name."""
    random = np.random.default_rng(0)
    flags = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "ivt", "unwitnessed_onset")
    tmax6 = random.uniform(20, 200, patients).round(1)
    (volumes := folder / "volumes").mkdir(exist_ok=True)
    for name in (f"{i}-{role}.nii" for i in range(patients) for role in ("ncct", "cta", "vessels")):
        (volumes / name).touch()
    return pd.DataFrame(
        {
            "patient_id": [f"p{i:04d}" for i in range(patients)],
            "ncct": [f"volumes/{i}-ncct.nii" for i in range(patients)],
            "cta": [f"volumes/{i}-cta.nii" for i in range(patients)],
            "age": random.integers(40, 95, patients),
            "sex": random.choice(["F", "M"], patients),
            **{name: random.integers(0, 2, patients) for name in flags},
            "nihss": random.integers(0, 30, patients),
            "occlusion_side": random.choice(["left", "right"], patients),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], patients),
            "cbf_lt30_ml": random.uniform(0, 40, patients).round(1),
            "tmax_gt4_ml": (2 * tmax6).round(1),
            "tmax_gt6_ml": tmax6,
            "tmax_gt10_ml": (tmax6 / 4).round(1),
            "rlvo": [1] * rlvo + [0] * (patients - rlvo),
        }
    )


def propose(
    table: pd.DataFrame, folder: Path, machine: Machine = LAPTOP, mapping: dict[str, str] | None = None
) -> tuple[StudyConfig, str, str]:
    """The study as it reads back, its text, and what is told."""
    table.to_csv(folder / "cohort.csv", index=False)
    (out := folder / "studies" / "first.yaml").parent.mkdir(exist_ok=True)
    found = propose_study(folder / "cohort.csv", out, machine, mapping)
    out.write_text(found.text)
    return load_study(out), found.text, "\n".join(found.notes)


def test_a_complete_table_gives_the_papers_predictors_and_nothing_is_told(tmp_path: Path) -> None:
    study, text, told = propose(cohort(tmp_path), tmp_path)
    assert (study.name, study.cohort.table) == ("first", tmp_path / "cohort.csv")
    assert study.cohort.predictors == PAPER_PREDICTORS
    assert (told, "Left out" in text) == ("", False)


def test_perfusion_that_is_not_there_is_left_out_in_one_line(tmp_path: Path) -> None:
    study, text, told = propose(cohort(tmp_path).drop(columns=list(PERFUSION_VOLUMES)), tmp_path)
    assert study.cohort.predictors == tuple(name for name in PAPER_PREDICTORS if name not in CTP)
    assert told.count("\n") == 0
    assert told.startswith("left out: CT perfusion (")
    assert text.count("# Left out:") == 1
    assert len(read_cohort(tmp_path / "cohort.csv", study.cohort.predictors).label) == 120


def test_part_of_perfusion_leaves_what_can_be_derived(tmp_path: Path) -> None:
    study, _, told = propose(cohort(tmp_path).drop(columns=["tmax_gt4_ml", "cbf_lt30_ml"]), tmp_path)
    left_out = {*PAPER_PREDICTORS} - {*study.cohort.predictors}
    assert left_out == {"tmax_gt4_ml", "cbf_lt30_ml", "tmax4_tmax6_ratio"}
    assert all(f"left out: {name}: no column" in told for name in left_out)


def test_a_column_that_may_be_one_of_ours_is_proposed_and_not_taken(tmp_path: Path) -> None:
    table = cohort(tmp_path).rename(columns={"age": "Edad", "hypertension": "HTA"})
    study, text, told = propose(table, tmp_path)
    assert {"age", "hypertension"} & {*study.cohort.predictors} == set()
    for each in ("age: no column age; if it is the column 'edad': --map age=edad", "--map hypertension=hta"):
        assert each in told
        assert each in text
    mapped, _, told = propose(table, tmp_path, mapping={"age": "Edad", "hypertension": "HTA"})
    assert (mapped.cohort.predictors, told) == (PAPER_PREDICTORS, "")
    assert mapped.cohort.columns == {"age": "Edad", "hypertension": "HTA"}
    read = read_cohort(tmp_path / "cohort.csv", mapped.cohort.predictors, mapping=mapped.cohort.columns)
    assert read.table["age"].tolist() == table["Edad"].tolist()


def test_a_column_without_values_is_left_out(tmp_path: Path) -> None:
    study, _, told = propose(cohort(tmp_path).assign(smoking=""), tmp_path)
    assert "smoking" not in study.cohort.predictors
    assert "left out: smoking: column smoking has no readable value" in told


def test_what_is_wrong_with_the_table_is_said_instead(tmp_path: Path) -> None:
    wrong = cohort(tmp_path).assign(age=200).rename(columns={"patient_id": "nhc"})
    with pytest.raises(CohortError, match=r"patient_id: the column is missing\. Is it the column 'nhc'"):
        propose(wrong, tmp_path)
    with pytest.raises(CohortError, match="age"):
        propose(cohort(tmp_path).assign(age=200), tmp_path)
    with pytest.raises(RlvoError, match="too few for a hold-out and 2 folds"):
        propose(cohort(tmp_path, rlvo=2), tmp_path)


@pytest.mark.parametrize(
    ("rlvo", "share", "folds"), [(8, 0.3, 2), (20, 0.3, 2), (24, 0.3, 3), (30, 0.3, 4), (49, 0.3, 4), (50, 0.2, 4)]
)
def test_folds_are_as_many_as_the_rarer_class_allows(tmp_path: Path, rlvo: int, share: float, folds: int) -> None:
    study, text, _ = propose(cohort(tmp_path, rlvo=rlvo), tmp_path)
    assert (study.folds.test_fraction, study.folds.folds) == (share, folds)
    read = read_cohort(tmp_path / "cohort.csv")
    split = make_split(read.label, study.folds, read.included)
    validating = [int(read.label[list(part)].sum()) for part in split.folds]
    assert f"With rLVO: {', '.join(map(str, validating))}." in text
    assert min(validating) >= LEAST_IN_FOLD or folds == 2


def test_more_patients_are_worth_more_choices(tmp_path: Path) -> None:
    few, some, many = (
        propose(
            cohort(tmp_path, n, n // 4).assign(vessels=[f"volumes/{i}-vessels.nii" for i in range(n)]), tmp_path, SERVER
        )[0]
        for n in (200, 600, 2000)
    )
    assert [each.configurations for each in (few, some, many)] == [6, 12, 48]
    assert [each.search.pruning for each in (few, some, many)] == ["none", "none", "halving"]
    assert "model.prior" not in few.space.enumerate
    assert not few.space.sample
    assert many.search.sampler == "tpe"


@pytest.mark.parametrize("machine", [LAPTOP, SERVER, SMALL_GPU, CLUSTER], ids=str)
@pytest.mark.parametrize("patients", [60, 1000])
def test_what_is_written_can_be_planned_for_its_machine(tmp_path: Path, machine: Machine, patients: int) -> None:
    study, _, _ = propose(cohort(tmp_path, patients, patients // 3), tmp_path, machine)
    planned = plan_study(study)
    assert {*study.space.enumerate["model.modality"]} == {"NCCT", "CTA", "BOTH"}
    assert study.resources.gpus == (1 if machine.gpus else 0)
    assert study.resources.cpus * max(machine.gpus, 1) <= machine.cpus
    memory = (machine.gpu_gb or 24) * 1e9 if machine.gpus else 1e9
    assert max(model.activation_bytes for model in planned.models) < memory


def test_names_of_files_and_columns_stay_yaml(tmp_path: Path) -> None:
    (folder := tmp_path / "a: b # c").mkdir()
    table = cohort(folder).rename(columns={"age": "Alter: 'J' # {x}"})
    study, _, _ = propose(table.assign(**{"x: y\n- z": 1}), folder, mapping={"age": "Alter: 'J' # {x}"})
    assert study.cohort.table == folder / "cohort.csv"
    assert study.cohort.columns["age"] == "Alter: 'J' # {x}"


def test_no_file_is_replaced_unasked(tmp_path: Path) -> None:
    (there := tmp_path / "study.yaml").touch()
    with pytest.raises(RlvoError, match="--force"):
        check_target(there, force=False)
    check_target(there, force=True)
    with pytest.raises(RlvoError, match=r"ends in \.yaml"):
        check_target(tmp_path / "study.txt", force=False)


def test_further_columns_of_numbers_are_named_in_a_comment_and_outcomes_are_not(tmp_path: Path) -> None:
    random, table = np.random.default_rng(1), cohort(tmp_path)
    table = table.assign(
        **{"Calcio sifón (mm3)": random.uniform(0, 900, 120).round(1)},
        glucose=random.integers(80, 200, 120),
        mrs_90d=random.integers(0, 7, 120),
        told=table["rlvo"] * 100 + random.integers(0, 9, 120),
        row=range(120),
        remarks="none",
        same=1,
    )
    study, text, _ = propose(table, tmp_path)
    assert study.cohort.predictors == PAPER_PREDICTORS
    declared = [line.removeprefix("    # - ") for line in text.splitlines() if line.startswith("    # - ")]
    assert [line.split(",")[0] for line in declared] == ["{name: calcio_sif_n_mm3", "{name: glucose"]
    assert declared[0].endswith('source: "calcio sif\\u00f3n (mm3)"}')
    # Filled in and without the mark of a comment, the lines are a sound study.
    filled = text.replace("    # - {", "    - {").replace("UNIT", "mm3").replace("[LOWEST, HIGHEST]", "[0, 1000]")
    (tmp_path / "studies" / "own.yaml").write_text(filled)
    own = load_study(tmp_path / "studies" / "own.yaml").cohort
    assert own.names == (*PAPER_PREDICTORS, "calcio_sif_n_mm3", "glucose")
    assert read_cohort(tmp_path / "cohort.csv", own.names, own.own).table[list(own.names[-2:])].notna().all(axis=None)


def test_biomarkers_that_rlvo_measured_are_declared_in_full(tmp_path: Path) -> None:
    random, table = np.random.default_rng(2), cohort(tmp_path)
    table = table.assign(
        **{
            "biomarkers.clot_mm": random.uniform(2, 30, 120).round(1),
            "biomarkers.deep_filling_hu": random.normal(0, 5, 120).round(1),
            "biomarkers.side": "left",
            "biomarkers.doubts": "",
        }
    )
    _, text, _ = propose(table, tmp_path)
    (tmp_path / "studies" / "own.yaml").write_text(text.replace("    # - {", "    - {"))
    own = load_study(tmp_path / "studies" / "own.yaml").cohort.own
    known = {each.name: each for each in declarations()}
    assert own == tuple(known[name] for name in ("biomarkers_clot_mm", "biomarkers_deep_filling_hu"))
