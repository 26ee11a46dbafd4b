from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.isles24 import isles24_cohort, perfusion_volumes
from rlvo.cohort.reading import examine_table, read_cohort, volume_paths
from rlvo.cohort.tables import read_table
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import CohortError, RlvoError

BASELINE = {
    "Center": 1, "Sex": "F", "Age": 81, "Atrial fibrillation": 1, "Hypertension": 1.0, "Diabetes": 0,
    "Hyperlipidemia": 1, "Wake-up": 0, "NIHSS at admission": 14, "mRS premorbid": 1,
}  # fmt: skip
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
"""Voxels of 0.02 mL."""


def save(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values.astype(np.float32), AFFINE).to_filename(path)
    return path


def maps() -> tuple[np.ndarray, np.ndarray]:
    """A brain of 20 x 20 x 10 voxels: 1,000 above 4 s, of them 600 above 6 s and 200 above 10 s; flow 50 and less."""
    tmax, cbf = np.zeros((2, 24, 24, 12))
    tmax[2:22, 2:22, 1:11], cbf[2:22, 2:22, 1:11] = 2, 50
    for slices, delay, flow in ((5, 5, 30), (3, 8, 16), (1, 12, 5)):
        tmax[2:22, 2:12, 1 : 1 + slices], cbf[2:22, 2:12, 1 : 1 + slices] = delay, flow
    cbf[15, 15, 8] = 0  # fluid: no flow, no delay
    return tmax, cbf


def write_patient(
    root: Path,
    patient: str,
    *,
    raw: str = "raw_data",
    session: str = "ses-01",
    suffix: str = "csv",
    tici: object = "2b",
) -> None:
    scans, phenotype = root / raw / patient / session, root / "phenotype" / patient
    for kind in ("ncct", "cta"):
        save(np.zeros((2, 2, 2)), scans / f"{patient}_{session}_{kind}.nii.gz")
    for kind, values in zip(("tmax", "cbf"), maps(), strict=True):
        save(values, scans / "perfusion-maps" / f"{patient}_{session}_{kind}.nii.gz")
    later = session[:-1] + "2"
    for table, folder, name in (
        (BASELINE, session, "demographic_baseline"),
        ({"NIHSS 24h": 3, "TICI postinterventional": tici, "mRS 3 months": 2}, later, "outcome"),
    ):
        file = phenotype / folder / f"{patient}_{folder}_{name}.{suffix}"
        file.parent.mkdir(parents=True)
        frame = pd.DataFrame([table])
        frame.to_csv(file, index=False) if suffix == "csv" else frame.to_excel(file, index=False)


def test_volumes_are_thresholds_times_voxel_volume(tmp_path: Path) -> None:
    tmax, cbf = maps()
    volumes = perfusion_volumes(save(tmax, tmp_path / "tmax.nii.gz"), save(cbf, tmp_path / "cbf.nii.gz"))
    # 20 x 10 voxels a slice of 0.02 mL. Below 30 % of 50 is the flow in the innermost part only, 5; 16 is not.
    assert volumes == {"tmax_gt4_ml": 20.0, "tmax_gt6_ml": 12.0, "tmax_gt10_ml": 4.0, "cbf_lt30_ml": 4.0}
    assert set(perfusion_volumes(tmp_path / "tmax.nii.gz", None)) == {"tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"}


def test_files_that_are_not_perfusion_maps_are_refused(tmp_path: Path) -> None:
    tmax, cbf = maps()
    good = save(tmax, tmp_path / "tmax.nii.gz")
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:-40])
    for path, other, says in (
        (cut, None, "not a readable NIfTI"),
        (save(np.zeros((4, 4, 4)), tmp_path / "empty.nii.gz"), None, "map is empty"),
        (save(tmax * 1000, tmp_path / "ms.nii.gz"), None, "not in seconds"),
        (save(np.stack([tmax, tmax], -1), tmp_path / "4d.nii.gz"), None, "4 dimensions"),
        (good, save(cbf[:-1], tmp_path / "cbf.nii.gz"), "voxels, but Tmax has"),
    ):
        with pytest.raises(RlvoError, match=says):
            perfusion_volumes(path, other)


@pytest.mark.parametrize(
    ("raw", "session", "suffix", "patient"),
    [("raw_data", "ses-01", "csv", "sub-stroke0001"), ("rawdata", "ses-0001", "xlsx", "sub-strokecase0001")],
)
def test_both_layouts_become_a_cohort_table(raw: str, session: str, suffix: str, patient: str, tmp_path: Path) -> None:
    root = tmp_path / "isles" / "train"
    write_patient(root, patient, raw=raw, session=session, suffix=suffix, tici="3" if suffix == "csv" else 3.0)
    report = isles24_cohort(root.parent, tmp_path / "out")
    table, findings = examine_table(read_table(tmp_path / "out" / "cohort.csv").cells, folder=tmp_path / "out")
    row = table.loc[patient]
    expected = {
        "age": 81, "sex": "F", "hypertension": 1, "dyslipidemia": 1, "diabetes": 0, "atrial_fibrillation": 1,
        "unwitnessed_onset": 0, "nihss": 14, "etici": "3", "center": "1", "tmax_gt6_ml": 12.0, "cbf_lt30_ml": 4.0,
    }  # fmt: skip
    assert row[list(expected)].to_dict() == expected
    assert {name for name, value in row.items() if pd.isna(value)} == set(report.missing)
    assert set(report.missing) == {"smoking", "ivt", "occlusion_side", "occlusion_site", "aspects"}
    ncct = volume_paths(table, tmp_path / "out")[patient]["ncct"]
    assert ncct is not None
    assert ncct.name.endswith("_ncct.nii.gz")
    assert (report.patients, report.failed_recanalisations, report.findings, findings) == (1, 0, (), ())


def test_a_guessed_encoding_is_told(tmp_path: Path) -> None:
    write_patient(tmp_path / "isles", "sub-stroke0001")
    (file,) = (tmp_path / "isles").rglob("*_outcome.csv")
    file.write_text(file.read_text().replace("NIHSS 24h", "NIHSS après"), encoding="latin-1")
    report = isles24_cohort(tmp_path / "isles", tmp_path / "out")
    (finding,) = report.findings
    assert (finding.patient, finding.field) == ("sub-stroke0001", file.name)
    assert "UTF-8" in finding.what


def test_resampled_maps_replace_missing_raw_ones_and_unreadable_files_are_reported(tmp_path: Path) -> None:
    for number, tici in enumerate(("2a", "TICI 2b", "2b"), start=1):
        write_patient(tmp_path, f"sub-stroke000{number}", tici=tici)
    raw, first, second, third = tmp_path / "raw_data", *(f"sub-stroke000{number}" for number in (1, 2, 3))
    maps, to = (folder / first / "ses-01" / "perfusion-maps" for folder in (raw, tmp_path / "derivatives"))
    to.mkdir(parents=True)
    for kind in ("tmax", "cbf"):
        (maps / f"{first}_ses-01_{kind}.nii.gz").rename(to / f"{first}_ses-01_space-ncct_{kind}.nii.gz")
    (raw / second / "ses-01" / "perfusion-maps" / f"{second}_ses-01_tmax.nii.gz").write_bytes(b"")
    baseline = tmp_path / "phenotype" / third / "ses-01" / f"{third}_ses-01_demographic_baseline.csv"
    baseline.write_text("Age,Sex\n81,F,1\n")
    (raw / third / "ses-01" / f"{third}_ses-01_cta.nii.gz").unlink()
    report = isles24_cohort(tmp_path, tmp_path)
    assert {(finding.patient, finding.field) for finding in report.findings} == {
        (second, "tmax_gt6_ml"),
        (second, "etici"),
        (third, baseline.name),
    }
    assert report.failed_recanalisations == 1
    table, findings = examine_table(read_table(tmp_path / "cohort.csv").cells, folder=tmp_path)
    assert not findings
    assert list(table["tmax_gt4_ml"].isna()) == [False, True, False]
    assert list(table["cta"].isna()) == [False, False, True]
    assert list(table["etici"].isna()) == [False, True, False]


@pytest.mark.parametrize(
    ("grades", "expected"),
    [
        (("2b", "2a"), None),
        (("3", 3.0), "3"),
        (("2B", "TICI 2b"), "2b"),
        (("2b", "2c"), "2c"),
        (("2b67", "2b"), "2b67"),
        (("2b50", "2c"), None),
        (("2a", ""), "2a"),
    ],
)
def test_two_grades_are_one_or_contradict_each_other(
    grades: tuple[object, object], expected: str | None, tmp_path: Path
) -> None:
    write_patient(tmp_path, "sub-stroke0001")
    (file,) = (tmp_path / "phenotype").rglob("*_outcome.csv")
    names = ("TICI postinterventional", "mTICI postinterventional")
    pd.DataFrame([dict(zip(names, grades, strict=True))]).to_csv(file, index=False)
    report = isles24_cohort(tmp_path, tmp_path)
    typed, _ = examine_table(read_table(tmp_path / "cohort.csv").cells)
    if expected is not None:
        assert (typed["etici"].iloc[0], report.findings) == (expected, ())
    else:
        assert pd.isna(typed["etici"].iloc[0])
        (finding,) = report.findings
        assert (finding.patient, finding.field) == ("sub-stroke0001", "etici")
        assert all(f"{grade} as {name.lower()}" in finding.what for name, grade in zip(names, grades, strict=True))


def test_training_on_it_is_refused(tmp_path: Path) -> None:
    write_patient(tmp_path, "sub-stroke0001")
    report = isles24_cohort(tmp_path, tmp_path)
    assert "cannot train rLVO" in report.notice
    with pytest.raises(CohortError, match=r"ISLES'24 records neither .* it cannot train rLVO"):
        read_cohort(tmp_path / "cohort.csv", PAPER_PREDICTORS)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RlvoError, match="not an ISLES'24 folder"):
            isles24_cohort(folder, tmp_path)
