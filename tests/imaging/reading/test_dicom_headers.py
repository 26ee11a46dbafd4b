"""Headers of enhanced files: frames with geometry of their own, and sequences longer than what is read at first."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from support.catalogue import head, write_enhanced

from rlvo.imaging.reading.source import read_volume


def test_enhanced_file_keeps_its_geometry(tmp_path: Path) -> None:
    """Frames out of order, each with its own rescale."""
    path = write_enhanced(tmp_path / "ct.dcm")
    dataset = dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    for number, frame in enumerate(frames):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 5.0 * ((7 * number) % len(frames))]
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = "-3"
    dataset.save_as(path)
    volume = read_volume(path)
    order = [(7 * number) % len(frames) for number in range(len(frames))]
    np.testing.assert_array_equal(volume.array[:, :, order], np.maximum(head()[::-1, ::-1] - 3, -1024))


@pytest.mark.parametrize("delimited", [False, True])
def test_long_headers(tmp_path: Path, delimited: bool) -> None:
    """Per-frame sequences beyond the first bytes that are read, of given length or ended by a delimiter."""
    path = write_enhanced(tmp_path / "ct.dcm")
    dataset = dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        content = Dataset()
        content.FrameComments = "x" * 5000
        frame.FrameContentSequence = [content]
        frame["FrameContentSequence"].is_undefined_length = delimited
        frame.is_undefined_length_sequence_item = delimited
    dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = delimited
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).array, head()[::-1, ::-1])
