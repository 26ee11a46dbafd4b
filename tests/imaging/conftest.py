"""Real volumes, where they are, and DICOM series made on the spot."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))  # for `catalogue`, which is no test


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real volumes (RLVO_TEST_DATA, else ../shared/data)."""
    folder = Path(os.environ.get("RLVO_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real volumes: RLVO_TEST_DATA is not set and {folder} is not there")
    return folder


SliceWriter = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> SliceWriter:
    """Write one CT slice into `tmp_path`/series; keywords replace or (None) remove elements."""
    from catalogue import write_dicom

    folder = tmp_path / "series"
    folder.mkdir()
    series = generate_uid()

    def write(name: str, pixels: np.ndarray, position: np.ndarray, orientation: Any, **elements: Any) -> Path:
        usual = {"SeriesInstanceUID": series, "PixelSpacing": [0.8, 0.6], "RescaleSlope": "0.1"}
        values = usual | {"RescaleIntercept": "-50"} | elements
        write_dicom(folder / name, pixels, position, orientation, **values)
        return folder

    return write
