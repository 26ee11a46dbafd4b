"""Whatever bytes a file holds: a volume or an RlvoError, never another exception."""

from collections.abc import Callable, Iterable
from pathlib import Path

import catalogue
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvo.errors import RlvoError
from rlvo.imaging.reading import read_volume

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


def quickly(examples: int) -> Callable[..., object]:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=health)


def read_mutated(whole: bytes, changes: Iterable[tuple[int, bytes]], path: Path, read: Path) -> None:
    content = bytearray(whole)
    for offset, value in changes:
        content[offset : offset + len(value)] = value
    path.write_bytes(content)
    try:
        volume = read_volume(read)
    except RlvoError as error:
        told = str(error)
    else:
        assert np.isfinite(volume.array).all()
        assert np.isfinite(volume.affine).all()
        assert abs(np.linalg.det(volume.affine)) > 0
        told = " ".join((*volume.notes, *volume.doubts))
    assert told.isprintable()


@pytest.fixture(scope="module")
def nifti_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    small = catalogue.head()[::4, ::4, ::4]
    return catalogue.nifti(small)(tmp_path_factory.mktemp("nifti")).read_bytes()


@given(changes=mutations(352))
@quickly(1000)
def test_mutated_nifti_headers(tmp_path: Path, nifti_bytes: bytes, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "ct.nii"
    read_mutated(nifti_bytes, changes, path, path)


@given(changes=mutations(1400))
@quickly(300)
def test_mutated_dicom_headers(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    folder = tmp_path / "series"
    if not folder.exists():
        for number in range(6):
            folder.mkdir(exist_ok=True)
            pixels = catalogue.head()[::6, ::6, 6 * number].T
            catalogue.write_dicom(folder / f"{number}.dcm", pixels, [0, 0, 5 * number])
        (tmp_path / "whole").write_bytes((folder / "3.dcm").read_bytes())
    read_mutated((tmp_path / "whole").read_bytes(), changes, folder / "3.dcm", folder)


@given(changes=mutations(6000))
@quickly(200)
def test_mutated_enhanced_headers(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "ct.dcm"
    if not (tmp_path / "whole").exists():
        (tmp_path / "whole").write_bytes(catalogue.write_enhanced(path).read_bytes())
    read_mutated((tmp_path / "whole").read_bytes(), changes, path, path)
