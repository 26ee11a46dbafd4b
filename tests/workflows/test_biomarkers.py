"""Imaging biomarkers from a cohort's files to its table, and to a study that is given them as predictors."""

import json
import stat
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from support.commands import call, refused, run
from support.made_up_study import write_study, write_table
from support.privacy import open_to_others
from support.small_study import MakeStudy
from support.tiny_study import write_cohort

import rlvo
from rlvo.cohort.reading import read_cohort
from rlvo.cohort.tables import read_table
from rlvo.config.grid import Grid
from rlvo.config.workdir import Workdir
from rlvo.imaging.biomarkers import DECLARED, declarations
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.workflows.study import read_study

GRID = Grid(shape=(50, 62, 50), spacing=(3, 3, 3), origin=(-73.5, -109.5, -61.5))
PATIENTS = 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic patients; the third's NCCT is damaged. With them a study of their grid."""
    folder = tmp_path_factory.mktemp("cohort")
    write_synthetic_cohort(folder, patients=10, profile="demo", seed=0, grid=GRID, workers=1)
    table = pd.read_csv(folder / "cohort.csv", dtype=str, keep_default_na=False).head(PATIENTS)
    table.to_csv(folder / "cohort.csv", index=False)
    ncct = folder / table["ncct"][2]
    ncct.write_bytes(ncct.read_bytes()[:-100])
    (folder / "study.yaml").write_text(f"name: x\ngrid: {GRID.model_dump_json()}\n")
    return folder / "cohort.csv"


def prepare(cohort: Path, out: Path, *more: object) -> list[object]:
    return ["prepare", cohort, "--biomarkers", out, *more]


def on_grid(cohort: Path) -> tuple[object, ...]:
    return ("--config", cohort.parent / "study.yaml", "--workdir", cohort.parent / "work")


@pytest.fixture(scope="module")
def measured(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table with biomarkers, in a folder of its own, with `pictures` beside it."""
    folder = tmp_path_factory.mktemp("measured")
    out, pictures = folder / "with.csv", ("--biomarker-pictures", folder / "pictures")
    assert "1 of 3 patients refused" in refused(*prepare(cohort, out, *on_grid(cohort), *pictures, "--workers", 2))
    return out


def test_the_table_gets_columns_and_keeps_its_own(cohort: Path, measured: Path) -> None:
    before, after = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (cohort, measured))
    assert [*after][: len(before.columns)] == [*before]
    assert [*after][len(before.columns) :] == [f"biomarkers.{name}" for name in (*DECLARED, "side", "doubts")]
    for name in before:
        if name in ("ncct", "cta", "vessels"):
            places = [(measured.parent / cell).resolve() for cell in after[name]]
            assert places == [(cohort.parent / cell).resolve() for cell in before[name]]
        else:
            assert after[name].tolist() == before[name].tolist()
    assert after["biomarkers.side"].tolist()[:2] == before["occlusion_side"].tolist()[:2]
    assert after["biomarkers.doubts"][2] == "not prepared"
    numbers = after[[f"biomarkers.{name}" for name in DECLARED]]
    assert (numbers.loc[2] == "").all()
    own = declarations()
    named = [each.name for each in own if (numbers[str(each.source)] != "").any()]
    assert len(named) > 5
    read = read_cohort(measured, named, own)
    assert float(numbers["biomarkers.collaterals"][0]) == read.table["biomarkers_collaterals"].iloc[0]


def test_the_pictures_are_their_owners_alone(cohort: Path, measured: Path) -> None:
    patients = pd.read_csv(cohort, dtype=str)["patient_id"]
    drawn = sorted((measured.parent / "pictures").glob("*"))
    assert [path.name for path in drawn] == [f"{patient}.png" for patient in patients[:2]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (measured, *drawn)} == {0o600}
    assert not open_to_others(measured.parent, *patients)
    assert matplotlib.image.imread(drawn[0])[..., :3].std() > 0.1


def test_measured_again_from_a_table_with_commas(cohort: Path, measured: Path, tmp_path: Path) -> None:
    commas, columns, again = measured.with_name(cohort.name), tmp_path / "columns.yaml", tmp_path / "again.csv"
    table = pd.read_csv(measured, dtype=str, keep_default_na=False).replace(r"^(\d+)\.(\d+)$", r"\1,\2", regex=True)
    table.rename(columns={"patient_id": "NHC"}).to_csv(commas, index=False, sep=";")
    columns.write_text("patient_id: NHC\n")
    refused(*prepare(commas, again, *on_grid(cohort), "--columns", columns, "--workers", 1))
    raw, before = read_table(again, {"patient_id": "nhc"}), read_table(measured).cells
    assert raw.decimal_comma
    assert [*raw.cells] == [*before]
    for name in (f"biomarkers.{name}" for name in DECLARED):
        assert not raw.cells[name].str.contains(".", regex=False).any()
        values = [pd.to_numeric(cells[name].str.replace(",", ".")).tolist() for cells in (raw.cells, before)]
        np.testing.assert_array_equal(*values)


def test_what_is_asked_must_go_together(cohort: Path, tmp_path: Path) -> None:
    for options, why in (
        (("--biomarkers", cohort), "the cohort table itself"),
        (("--biomarkers", tmp_path / "out.xlsx"), "a CSV file"),
        (("--biomarker-pictures", tmp_path), "Add --biomarkers"),
    ):
        assert why in refused("prepare", cohort, *options)


def test_json_names_values_sides_and_doubts(cohort: Path, tmp_path: Path) -> None:
    asked = prepare(cohort, tmp_path / "out.csv", *on_grid(cohort), "--workers", 1, "--json")
    patients = json.loads(call(*asked).stdout)["patients"]
    assert set(patients[0]["biomarkers"]) == {*DECLARED, "side", "doubts"}
    assert "biomarkers" not in patients[2]
    table = pd.read_csv(tmp_path / "out.csv")
    for name in DECLARED:
        told = patients[0]["biomarkers"][name]
        assert np.isclose(np.nan if told is None else told, table[f"biomarkers.{name}"][0], atol=0.006, equal_nan=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_from_scans_to_a_new_patients_answer(make_small: MakeStudy, tmp_path: Path) -> None:
    path, work, out = write_cohort(tmp_path / "hospital"), tmp_path / "work", tmp_path / "with.csv"
    own = [each for each in declarations() if each.name in ("biomarkers_density_hu", "biomarkers_calcium_mm3")]
    config = make_small(
        "marked",
        cohort={"predictors": ["age", "nihss", *(each.model_dump(mode="json") for each in own)]},
        space={"enumerate": {"model.fusion": ["daft"]}},
    )
    file = tmp_path / "marked.yaml"
    file.write_text(config.model_dump_json())
    run(*prepare(path, out, "--config", file, "--workdir", work, "--workers", 1))
    table = pd.read_csv(out)
    assert table["biomarkers.density_hu"].nunique() > 20
    run("search", file, "--cohort", out, "--workdir", work)
    run("ensemble", "marked", "--partial", "--workdir", work)
    model = rlvo.load_model("rlvo-ensemble@champion", work)
    assert "The column `biomarkers_density_hu` is the study's own" in (model.folder / "card.md").read_text()
    new, marked = path.with_name("new.csv"), path.with_name("new-with.csv")
    rows = pd.read_csv(path).head(2).drop(columns="rlvo").assign(patient_id=["new-1", "new-2"])
    rows.assign(ncct=[rows["ncct"][0], None]).to_csv(new, index=False)
    run(*prepare(new, marked, "--config", file, "--workdir", work, "--workers", 1))
    told = pd.read_csv(marked)
    assert told["biomarkers.density_hu"].tolist() == [
        table["biomarkers.density_hu"][0],
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert "no NCCT" in told["biomarkers.doubts"][1]
    answers = model.predict(marked)
    assert "imputed" not in answers["warnings"][0]


@pytest.fixture(scope="module")
def with_columns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60 patients with made-up biomarkers as `rlvo prepare` writes them, but for two cells."""
    path = write_table(tmp_path_factory.mktemp("made-up") / "planted-hospital", 60)
    table, rng = pd.read_csv(path), np.random.default_rng(0)
    for name in DECLARED:
        table[f"biomarkers.{name}"] = rng.uniform(0.1, 0.9, len(table)).round(2)
    lost = table.index < 9
    table.loc[lost, ["biomarkers.clot_hu", "biomarkers.clot_mm"]] = np.nan
    table["biomarkers.side"] = table["occlusion_side"]
    table["biomarkers.doubts"] = np.where(lost, "a scan could not be read again: PLANTED-003.nii.gz is damaged", "")
    table = table.astype({"biomarkers.collaterals": object})
    table.loc[59, ["biomarkers.collaterals", "biomarkers.side"]] = [
        "much",
        {"left": "right"}.get(table["occlusion_side"][59], "left"),
    ]
    table.to_csv(path, index=False, sep=";", decimal=",")
    return path


def test_the_cohorts_page_shows_them(with_columns: Path, tmp_path: Path) -> None:
    page, pictures = tmp_path / "page.html", tmp_path / "pictures"
    options = ("--predictors", "age,sex,nihss", "--html", page, "--workdir", tmp_path)
    run("validate", with_columns, *options, "--pictures", pictures)
    text = page.read_text()
    for expected in (
        "<h2>Imaging biomarkers</h2>",
        "<th>Clot density, HU</th><td>51</td><td>a scan could not be read again: 9</td>",
        "<th>Collaterals, share</th><td>59</td><td>no reason given: 1</td>",
        "in 1 of the 60 patients",
        "9 of the 60 included patients have a doubt",
        "count as not measured: 1.",
    ):
        assert expected in text
    assert "PLANTED" not in text
    assert "biomarkers." not in text
    assert {"biomarkers.svg", "biomarkers.png"} <= {path.name for path in pictures.iterdir()}
    plain = pd.read_csv(with_columns, sep=";", dtype=str)
    plain = plain.loc[:, ~plain.columns.str.startswith("biomarkers.")]
    plain.to_csv(with_columns.with_name("plain.csv"), index=False, sep=";")
    run("validate", with_columns.with_name("plain.csv"), *options)
    assert "biomarkers" not in page.read_text()


def test_the_studys_report_shows_them(with_columns: Path, tmp_path: Path) -> None:
    nothing = [(0, fold) for fold in range(3)]
    write_study(tmp_path / "work", with_columns, {"model.modality": ["NCCT"]}, missing=nothing)
    moved = with_columns.with_name("moved.csv")
    moved.write_bytes(with_columns.read_bytes())
    run("report", "made-up", "--cohort", moved, "-o", tmp_path / "page.html", "--workdir", tmp_path / "work")
    rows = pd.read_csv(tmp_path / "page_files" / "biomarkers.csv").set_index("biomarker")
    table = pd.read_csv(with_columns, sep=";", decimal=",").set_index("patient_id")
    study = read_study("made-up", Workdir.at(tmp_path / "work"))
    own = study.inputs.split.development
    values = table.loc[list(own), "biomarkers.clot_hu"]
    assert rows.loc["clot_hu", "measured"] == 51
    for group, label in (("rlvo", 1), ("other", 0)):
        chosen = values[study.inputs.label[list(own)] == label]
        assert rows.loc["clot_hu", f"{group}_patients"] == chosen.count()
        assert rows.loc["clot_hu", f"{group}_median"] == pytest.approx(chosen.median())
    text = (tmp_path / "page.html").read_text()
    assert 'href="#biomarkers">Imaging biomarkers' in text
    for path in (tmp_path / "page.html", *(tmp_path / "page_files").glob("*.csv")):
        assert "PLANTED" not in path.read_text()
