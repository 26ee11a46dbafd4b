"""Malformed input: every case of the catalogue refused in one line, in little memory, and no bytes that raise more."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import catalogue

from rlvo.errors import RlvoError
from rlvo.imaging.reading.source import read_volume

REAL = (
    "dicom_gap", "dicom_rgb", "dicom_tilt", "dicom_two_slices", "dicom_single", "dicom_single/MR_truncated.dcm",
    "dicom_single/badVR.dcm", "dicom_single/no_meta.dcm", "nifti/5D_zeros.nii.gz", "nifti/anatomical.nii",
    "nifti/example4d.nii.gz", "nifti/example_nifti2.nii.gz", "nifti/functional.nii", "nifti/not-nifti.nii",
    "nifti/standard.nii.gz", "nifti/with_extension.nii.gz",
)  # fmt: skip
"""Files that other projects keep as bad examples; none is a head CT."""


def read_all(paths: dict[str, Path]) -> dict[str, Any]:
    """Read the inputs in one process, which an alarm ends if one takes too long."""
    arguments = [part for name, path in paths.items() for part in (name, str(path))]
    command = [sys.executable, catalogue.__file__, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"died with {process.returncode}: {process.stderr[-1000:]}"
    return {result["name"]: result for result in map(json.loads, process.stdout.splitlines())}


def check_result(result: dict[str, Any], path: Path) -> None:
    """Within the limits; a refusal is one line with patient, file, what is wrong and a fix, and identifies nobody."""
    assert result["peak"] <= catalogue.LIMIT_BYTES
    assert "SECRET" not in result["words"]
    assert "Nobody" not in result["words"]
    if result["kind"] == "refused":
        assert re.fullmatch(rf"patient 007, {re.escape(str(path))}(, \S+)?: [^\n]+\. [A-Z][^\n]+", result["words"])
    else:
        assert str(path) not in result["words"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_case_gets_its_outcome_within_the_limits(tmp_path: Path) -> None:
    assert sum(case.outcome == "refused" for case in catalogue.CASES.values()) >= 100
    paths = catalogue.build_all(tmp_path)
    results = read_all(paths)
    wrong = []
    for name, case in catalogue.CASES.items():
        check_result(results[name], paths[name])
        if results[name]["kind"] != case.outcome or case.words not in results[name]["words"]:
            wrong.append((name, case.outcome, case.words, results[name]["kind"], results[name]["words"]))
    assert wrong == []


def test_bad_examples_of_other_projects_are_refused(real: Path) -> None:
    paths = {name: real / "malformed" / name for name in REAL}
    results = read_all(paths)
    for name, path in paths.items():
        check_result(results[name], path)
        assert results[name]["kind"] == "refused"


NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255)
WORDS = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.builds(lambda value, size: value.to_bytes(size, "little"), st.sampled_from(NUMBERS), st.sampled_from([1, 2, 4])),
    st.sampled_from([np.float32(value).tobytes() for value in (np.nan, np.inf, -np.inf, 0, -1, 1e38, 1e-38)]),
    st.sampled_from([np.int16(value).tobytes() for value in (-1, -32768, 32767)]),
    st.sampled_from([b"\xff\xff\xff\xff", b"SQ\0\0\xff\xff\xff\xff", b"UN\0\0", b"\xfe\xff\0\xe0", b"\\", b"NaN "]),
)


def mutations(size: int) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    return st.lists(st.tuples(st.integers(0, size - 1), WORDS), min_size=1, max_size=4)


def read_mutated(whole: bytes, changes: Iterable[tuple[int, bytes]], path: Path, read: Path) -> None:
    """Whatever bytes `path` holds: reading `read` gives a sound volume or an RlvoError, no other exception."""
    content = bytearray(whole)
    for offset, value in changes:
        content[offset : offset + len(value)] = value
    path.write_bytes(content)
    try:
        volume = read_volume(read)
    except RlvoError as error:
        words = str(error)
    else:
        assert np.isfinite(volume.array).all()
        assert np.isfinite(volume.affine).all()
        assert abs(np.linalg.det(volume.affine)) > 0
        words = " ".join((*volume.notes, *volume.doubts))
    assert words.isprintable()


def write_nifti(folder: Path) -> tuple[Path, Path]:
    path = catalogue.nifti(catalogue.head()[::4, ::4, ::4])(folder)
    return path, path


def write_series(folder: Path) -> tuple[Path, Path]:
    for number in range(6):
        pixels = catalogue.head()[::6, ::6, 6 * number].T
        catalogue.write_dicom(folder / f"{number}.dcm", pixels, [0, 0, 5 * number])
    return folder / "3.dcm", folder


def write_enhanced(folder: Path) -> tuple[Path, Path]:
    return (path := catalogue.write_enhanced(folder / "ct.dcm")), path


@pytest.mark.parametrize(
    ("write", "header_bytes", "examples"),
    [(write_nifti, 352, 1000), (write_series, 1400, 300), (write_enhanced, 6000, 200)],
)
@pytest.mark.slow
def test_mutated_headers(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Path]], header_bytes: int, examples: int
) -> None:
    path, read = write(tmp_path)
    whole = path.read_bytes()

    @given(changes=mutations(header_bytes))
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def check(changes: list[tuple[int, bytes]]) -> None:
        read_mutated(whole, changes, path, read)

    check()
