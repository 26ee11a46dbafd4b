"""Every malformed input of the catalogue, read in one process that an alarm ends: told, in little memory, alive."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import catalogue
import pytest

REAL = (
    "dicom_gap", "dicom_rgb", "dicom_tilt", "dicom_two_slices", "dicom_single", "dicom_single/MR_truncated.dcm",
    "dicom_single/badVR.dcm", "dicom_single/no_meta.dcm", "nifti/5D_zeros.nii.gz", "nifti/anatomical.nii",
    "nifti/example4d.nii.gz", "nifti/example_nifti2.nii.gz", "nifti/functional.nii", "nifti/not-nifti.nii",
    "nifti/standard.nii.gz", "nifti/with_extension.nii.gz",
)  # fmt: skip
"""Files that other projects keep as bad examples; none is a head CT."""


def read_all(paths: dict[str, Path]) -> dict[str, Any]:
    arguments = [part for name, path in paths.items() for part in (name, str(path))]
    command = [sys.executable, catalogue.__file__, "rlvo", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"died with {process.returncode}: {process.stderr[-1000:]}"
    return {result["name"]: result for result in map(json.loads, process.stdout.splitlines())}


def check_told(result: dict[str, Any], path: Path) -> None:
    """Within the limits; a refusal is one line with patient, file, what and how to mend it, and gives nobody away."""
    assert result["peak"] <= catalogue.LIMIT_BYTES
    assert "SECRET" not in result["words"]
    assert "Nobody" not in result["words"]
    if result["kind"] == "refused":
        assert re.fullmatch(rf"patient 007, {re.escape(str(path))}(, \S+)?: [^\n]+\. [A-Z][^\n]+", result["words"])
    else:
        assert str(path) not in result["words"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_case_is_told_within_its_limits(tmp_path: Path) -> None:
    assert sum(case.outcome == "refused" for case in catalogue.CASES.values()) >= 45
    paths = catalogue.build_all(tmp_path)
    results = read_all(paths)
    wrong = []
    for name, case in catalogue.CASES.items():
        check_told(results[name], paths[name])
        if results[name]["kind"] != case.outcome or case.words not in results[name]["words"]:
            wrong.append((name, case.outcome, case.words, results[name]["kind"], results[name]["words"]))
    assert wrong == []


def test_bad_examples_of_other_projects(real: Path) -> None:
    paths = {name: real / "malformed" / name for name in REAL}
    results = read_all(paths)
    for name, path in paths.items():
        check_told(results[name], path)
        assert results[name]["kind"] == "refused"
