"""The cohort on disk: layout, reproducibility, and what is refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from rlvo.config.grid import PRESETS, Grid
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import RlvoError
from rlvo.synthetic.ceilings import BLOCKS
from rlvo.synthetic.cohort import has_synthetic, occlusion_places, write_synthetic_cohort

PREDICTORS = {*PAPER_PREDICTORS, "aspects"} - {"hir", "tmax4_tmax6_ratio"}
OUTCOMES = {"final_stenosis_pct", "etici", "rescue_treatment", "etiology"}
VOLUMES = {"ncct", "cta", "vessels"}


def write(out: Path, **options: object) -> Path:
    write_synthetic_cohort(out, **({"patients": 20, "profile": "demo", "seed": 3} | options))  # type: ignore[arg-type]
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("synthetic") / "cohort", workers=1)


def read(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(cohort / "cohort.csv", dtype={"patient_id": str, "etici": str})


def test_table(cohort: Path) -> None:
    table = read(cohort)
    assert set(table) == {"patient_id", "center", "admission_date"} | PREDICTORS | OUTCOMES | VOLUMES
    assert list(table["patient_id"]) == [f"synth-{number:05d}" for number in range(1, 21)]
    assert table.drop(columns="etiology").notna().all().all()


def test_volumes_lie_on_the_grid(cohort: Path) -> None:
    for _, row in read(cohort).iterrows():
        for column, dtype in (("ncct", np.int16), ("cta", np.int16), ("vessels", np.uint8)):
            image = nib.load(cohort / row[column])
            assert image.shape == PRESETS["focus"].shape
            assert image.get_data_dtype() == dtype
            np.testing.assert_array_equal(image.affine, PRESETS["focus"].affine)
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            assert image.header["sform_code"] == 4


def test_truth_is_beside_the_table_not_in_it(cohort: Path) -> None:
    truth = json.loads((cohort / "truth.json").read_text())
    assert (truth["profile"], truth["seed"], truth["patients"]) == ("demo", 3, 20)
    assert "ynthetic" in truth["statement"]
    assert "learnable in minutes" in truth["statement"]
    assert set(truth["ceilings"]) == set(BLOCKS)
    logits = pd.read_csv(cohort / "true_logits.csv")
    assert list(logits) == ["patient_id", "logit", "clinical_logit"]
    assert list(logits["patient_id"]) == list(read(cohort)["patient_id"])
    assert not {"logit", "rlvo", "z_cta"} & set(read(cohort))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_workers(cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    again = write(tmp_path / "again", workers=2, progress=lambda done, total: seen.append((done, total)))
    assert contents(again) == contents(cohort)
    assert seen == [(done, 20) for done in range(1, 21)]


def test_another_seed_gives_other_patients(cohort: Path, tmp_path: Path) -> None:
    other = write(tmp_path, seed=4, patients=12, workers=1)
    ncct = "volumes/synth-00001/ncct.nii.gz"
    assert (other / ncct).read_bytes() != (cohort / ncct).read_bytes()
    assert (read(other)["age"] != read(cohort)["age"][:12]).any()


def test_synthetic_patients_are_known_by_their_ids(cohort: Path) -> None:
    ids = pd.read_csv(cohort / "cohort.csv")["patient_id"].tolist()
    assert has_synthetic(ids)
    assert has_synthetic(["real-1", ids[0]])
    assert not has_synthetic(["real-1", "synth-A", "synthesis-00001"])


def test_without_volumes(tmp_path: Path) -> None:
    out = write(tmp_path / "table", patients=500, volumes=False)
    assert not VOLUMES & set(read(out))
    assert sorted(path.name for path in out.iterdir()) == ["cohort.csv", "true_logits.csv", "truth.json"]


def test_an_earlier_synthetic_cohort_is_replaced_whole(tmp_path: Path) -> None:
    out = write(tmp_path, patients=14, workers=1)
    (out / "notes.txt").write_text("mine")
    write(out, patients=12, seed=9, workers=1)
    assert len(read(out)) == 12
    assert len(list((out / "volumes").iterdir())) == 12
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"generator": "something else"}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "cohort.csv").write_text("real,data\n")
    if content is not None:
        (tmp_path / "truth.json").write_text(content)
    before = contents(tmp_path)
    with pytest.raises(RlvoError, match="other than a synthetic cohort"):
        write(tmp_path)
    assert contents(tmp_path) == before


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RlvoError, match="not a folder"):
        write(tmp_path / "file")
    with pytest.raises(RlvoError, match="too few"):
        write(tmp_path / "new", patients=3)
    with pytest.raises(RlvoError, match=r"'dmeo'.*demo, paper, interaction, null"):
        write(tmp_path / "new", profile="dmeo")
    assert not (tmp_path / "new").exists()


def test_the_occlusion_lies_where_contrast_ends_and_the_clot_begins(tmp_path: Path) -> None:
    grid = Grid(shape=(62, 36, 32), spacing=(2, 2, 2), origin=(-61, -27, -42))
    table = read(write(tmp_path, patients=12, grid=grid, workers=1)).set_index("patient_id")
    places = occlusion_places(tmp_path)
    assert list(places) == list(table.index)
    assert all((places[p][0] > 0) == (table.loc[p, "occlusion_side"] == "right") for p in places)
    differences = []
    for patient, place in places.items():
        found = []
        for point in (place, place * (-1, 1, 1)):
            index = np.rint((point - grid.origin) / np.array(grid.spacing)).astype(int)
            cube = tuple(slice(max(0, i - 2), i + 3) for i in index)
            cells = [nib.load(tmp_path / table.loc[patient, name]).dataobj[cube] for name in ("cta", "ncct")]
            found.append([np.sort(each, axis=None)[-6:].mean() for each in cells])
        differences.append(np.subtract(*found))
    less_contrast, denser = np.transpose(differences) * ([-1], [1])
    assert (less_contrast > 0).sum() >= 10
    assert (denser > 0).sum() >= 10


def test_a_cohort_of_other_origin_has_no_known_occlusions(tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no synthetic cohort"):
        occlusion_places(tmp_path)
