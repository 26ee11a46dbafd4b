"""Predictors that a study declares are read, checked and encoded like the paper's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.malformed import csv, written

from rlvo.cohort.encoding import TabularEncoder, fit_encoder
from rlvo.cohort.leaks import suspected_leaks
from rlvo.cohort.reading import Cohort, data_hash, examine_table, read_cohort
from rlvo.cohort.variables import VARIABLES, check_predictors
from rlvo.config.base import content_hash
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.errors import CohortError, RlvoError

SIPHON = OwnPredictor(name="siphon", kind="continuous", unit="mm3", range=(0, 2000), source="Calcio (mm3)")
COLLATERALS = OwnPredictor(name="collaterals", kind="ordinal", levels=("none", "poor", "good"))
CLOT = OwnPredictor(name="clot", kind="categorical", levels=("soft", "mixed", "hard"))
ANAEMIA = OwnPredictor(name="anaemia", kind="binary")
OWN = (SIPHON, COLLATERALS, CLOT, ANAEMIA)
NAMES = tuple(each.name for each in OWN)


@pytest.fixture
def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """The sound rows, with columns for OWN."""
    random = np.random.default_rng(5)
    return rows.assign(
        **{"Calcio (mm3)": random.uniform(1, 900, 40).round(1).astype(str)},
        collaterals=random.choice(["None", "poor", "good"], 40),
        clot=random.choice(["soft", "mixed", "HARD"], 40),
        anaemia=random.choice(["0", "1"], 40),
    )


def read(folder: Path, rows: pd.DataFrame, own: tuple[OwnPredictor, ...] = OWN, **options: object) -> Cohort:
    path = written(folder, csv(rows, options.pop("sep", ",")))  # type: ignore[arg-type]
    names = (*PAPER_PREDICTORS, *(each.name for each in own))
    return read_cohort(path, names, own, need_volumes=False, **options)  # type: ignore[arg-type]


def test_they_are_typed_and_a_level_named_none_is_no_missing_value(tmp_path: Path, wide: pd.DataFrame) -> None:
    wide.loc[0, ["Calcio (mm3)", "collaterals", "clot", "anaemia"]] = ["", "NA", "none", "true"]
    table = read(tmp_path, wide).table
    assert table[list(NAMES)].iloc[0].isna().tolist() == [True, True, True, False]
    assert set(table["collaterals"].dropna()) == {"none", "poor", "good"}
    assert set(table["clot"].dropna()) == {"soft", "mixed", "hard"}
    assert table["siphon"].iloc[1] == float(wide["Calcio (mm3)"][1])
    assert table["anaemia"].iloc[0] == 1.0


def test_undeclared_columns_stay_unused(tmp_path: Path, wide: pd.DataFrame) -> None:
    assert set(read(tmp_path, wide, ()).ignored) == {"calcio (mm3)", "collaterals", "clot", "anaemia"}
    assert read(tmp_path, wide).ignored == ()


def test_every_cell_that_does_not_fit_is_a_finding_with_what_is_allowed(tmp_path: Path, wide: pd.DataFrame) -> None:
    cells = {0: ("Calcio (mm3)", "2001"), 1: ("Calcio (mm3)", "1,234"), 2: ("collaterals", "fair"), 3: ("anaemia", "y")}
    for row, (column, cell) in cells.items():
        wide.loc[row, column] = cell
    with pytest.raises(CohortError) as caught:
        read(tmp_path, wide)
    found = {(finding.patient, finding.field): finding for finding in caught.value.findings}
    assert set(found) == {("000", "siphon"), ("001", "siphon"), ("002", "collaterals"), ("003", "anaemia")}
    assert found["000", "siphon"].allowed == "0 to 2000 mm3"
    assert found["002", "collaterals"].fix == "Write one of none, poor, good"
    assert found["003", "anaemia"].fix == "Write 1 for yes"


def test_numbers_and_missing_codes_are_doubted_as_elsewhere(tmp_path: Path, wide: pd.DataFrame) -> None:
    column = wide["Calcio (mm3)"].astype(float).clip(upper=600)
    coded = column.mask(column.index < 3, 888).astype(str)
    with pytest.raises(CohortError, match=r"siphon: 888 may stand for a missing value"):
        read(tmp_path, wide.assign(**{"Calcio (mm3)": coded}))
    separated = wide.assign(**{"Calcio (mm3)": [f"1.{200 + i}" for i in range(40)]})
    with pytest.raises(CohortError, match="is that a thousands or decimal separator"):
        read(tmp_path, separated, sep=";")


def test_a_missing_column_is_named_with_its_source(tmp_path: Path, wide: pd.DataFrame) -> None:
    with pytest.raises(CohortError, match=r"siphon: the column is missing, and so is its source 'Calcio \(mm3\)'"):
        read(tmp_path, wide.drop(columns="Calcio (mm3)"))
    renamed = wide.rename(columns={"Calcio (mm3)": "siphon"})
    assert read(tmp_path, renamed).table["siphon"].notna().all()
    other = wide.rename(columns={"Calcio (mm3)": "Kalk"})
    assert read(tmp_path, other, mapping={"siphon": "Kalk"}).table["siphon"].notna().all()


@pytest.mark.parametrize("name", [name for name, each in VARIABLES.items() if each.role == "outcome"])
def test_an_outcome_cannot_be_declared(name: str, tmp_path: Path, wide: pd.DataFrame) -> None:
    with pytest.raises(RlvoError, match=f"{name} is an outcome"):
        check_predictors([name], [OwnPredictor(name=name, kind="binary")])
    by_source = OwnPredictor(name="harmless", kind="continuous", range=(0, 100), source=name)
    with pytest.raises(RlvoError, match=f"has as its source '{name}', known only after the procedure"):
        read(tmp_path, wide, (by_source,))


@pytest.mark.parametrize(
    "name", ["mtici", "mrs_90d", "nihss_24h", "passes", "icad", "toast", "aetiology", "rlvo_label", "label",
             "refractory_occlusion", "procedure_time", "first_pass", "stent_retriever"],
)  # fmt: skip
def test_another_name_of_an_outcome_cannot_be_declared(name: str) -> None:
    with pytest.raises(RlvoError, match=f"{name} is"):
        check_predictors([name], [OwnPredictor(name=name, kind="binary")])


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("age", None, "age is declared, but rlvo knows it"),
        ("hir", None, "hir is declared, but rlvo knows it"),
        ("patient_id", None, "identifies the patient"),
        ("ncct", None, "is a volume"),
        ("aspects", None, "in baselines only"),
        ("center", None, "how the patient was selected"),
        ("group", None, "is a name that rlvo uses itself"),
        ("years", " Age", "has as its source a column that rlvo knows"),
        ("siphon", "mTICI final", "has as its source 'mTICI final', known only after"),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str, source: str | None, says: str) -> None:
    own = OwnPredictor(name=name, kind="continuous", range=(0, 1), source=source)
    with pytest.raises(RlvoError, match=says) as caught:
        check_predictors([name], [own])
    assert "\n" not in str(caught.value)


def test_two_of_one_name_or_one_source_are_refused(tmp_path: Path, wide: pd.DataFrame) -> None:
    with pytest.raises(RlvoError, match="siphon is listed twice"):
        read(tmp_path, wide, (SIPHON, SIPHON.model_copy(update={"unit": "mL"})))
    with pytest.raises(RlvoError, match=r"'calcio \(mm3\)' is mapped to more than one column"):
        read(tmp_path, wide, (SIPHON, SIPHON.model_copy(update={"name": "carotid"})))


def fold() -> pd.DataFrame:
    cells = {
        "siphon": [0, 100, 200, 400, None],
        "collaterals": ["none", "none", "poor", "good", None],
        "clot": ["hard", "hard", "soft", None, "mixed"],
        "anaemia": [1, 0, 0, None, 0],
    }
    return examine_table(pd.DataFrame(cells).assign(patient_id=list("abcde")), OWN)[0]


def test_they_are_encoded_by_what_the_fold_holds() -> None:
    encoder = fit_encoder(fold(), NAMES, OWN, scaling="min_max")
    assert encoder.feature_names == ("siphon", "collaterals", "clot=soft", "clot=mixed", "clot=hard", "anaemia")
    assert encoder.reference_features == ("clot=soft",)
    assert encoder.fill == {"siphon": 150, "collaterals": "none", "clot": "hard", "anaemia": 0}
    expected = [
        [0, 0, 0, 0, 1, 1],
        [0.25, 0, 0, 0, 1, 0],
        [0.5, 0.5, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0.375, 0, 0, 1, 0, 0],
    ]
    np.testing.assert_allclose(encoder.transform(fold()), expected)
    assert TabularEncoder.model_validate_json(encoder.model_dump_json()) == encoder


def test_only_declarations_of_its_predictors_travel_with_an_encoder() -> None:
    assert fit_encoder(fold(), ("clot",), OWN).own == (CLOT,)
    old = fit_encoder(examine_table(pd.DataFrame({"patient_id": ["a", "b"], "age": [60, 70]}))[0], ("age",))
    assert "own" not in old.model_dump(mode="json")


def test_a_declared_predictor_that_tells_the_label_is_suspected(tmp_path: Path, wide: pd.DataFrame) -> None:
    cohort = read(tmp_path, wide)
    assert suspected_leaks(cohort.included, cohort.label, NAMES, OWN) == []
    telling = cohort.included.assign(
        siphon=cohort.label * 100.0 + np.arange(40) % 7, clot=np.where(cohort.label == 1, "hard", "soft")
    )
    found = suspected_leaks(telling, cohort.label, NAMES, OWN)
    assert {each.field: each.what.partition(" alone")[0] for each in found} == {"siphon": "its value", "clot": "'soft'"}


def test_an_order_that_tells_the_label_is_suspected_though_no_level_does(tmp_path: Path, wide: pd.DataFrame) -> None:
    cohort, odd = read(tmp_path, wide), np.arange(40) % 2
    grade = OwnPredictor(name="grade", kind="ordinal", levels=("0", "1", "2", "3"))
    table = cohort.included.assign(grade=(2 * cohort.label + odd).astype(str))
    (finding,) = suspected_leaks(table, cohort.label, ["grade"], [grade])
    assert finding.what.startswith("its value alone")
    unordered = grade.model_copy(update={"kind": "categorical"})
    assert suspected_leaks(table, cohort.label, ["grade"], [unordered]) == []


def test_the_declaration_is_part_of_the_datas_identity_but_not_the_tables_name(
    tmp_path: Path, wide: pd.DataFrame
) -> None:
    cohort = read(tmp_path, wide)
    table, label = cohort.included, cohort.label
    found = data_hash(table, label, NAMES, OWN)
    assert found == data_hash(table, label, NAMES, (SIPHON.model_copy(update={"source": None}), *OWN[1:]))
    assert found != data_hash(table, label, NAMES, (SIPHON.model_copy(update={"range": (0.0, 3000.0)}), *OWN[1:]))
    names = ("age", "nihss")
    before = {name: table[name].to_dict() for name in names} | {"label": label.to_dict()}
    assert data_hash(table, label, names) == content_hash(before)
