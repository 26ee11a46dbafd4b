"""Real volumes, where they are, and DICOM series and NIfTI files made on the spot."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

REPOSITORY = Path(__file__).parents[2]


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
    folder = tmp_path / "series"
    folder.mkdir()
    series = generate_uid()

    def write(name: str, pixels: np.ndarray, position: np.ndarray, orientation: Any, **elements: Any) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(folder / name), {}, file_meta=meta, preamble=b"\0" * 128)
        values = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "SeriesInstanceUID": series,
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImagePositionPatient": [round(float(value), 6) for value in position],
            "ImageOrientationPatient": [float(f"{value:.10f}") for value in np.ravel(orientation)],
            "PixelSpacing": [0.8, 0.6],
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": "0.1",
            "RescaleIntercept": "-50",
            "PixelData": pixels.astype("<i2").tobytes(),
        } | elements
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.save_as(folder / name, enforce_file_format=True)
        return folder

    return write
