import os

import numpy as np
import pytest
import torch

from rlvo.errors import PatientError, RlvoError
from rlvo.training.dataset import FoldData, Volumes, channel_statistics, stack_channels


def test_volumes_are_the_stores_in_channel_order(fold_data: FoldData) -> None:
    volumes = Volumes(fold_data.validation, ("cta", "vessels"))
    batch = volumes[torch.tensor([3, 0])]
    assert batch.dtype == torch.float16
    assert batch.shape == (2, 2, 16, 14, 12)
    for row, patient in enumerate((3, 0)):
        for channel, name in enumerate(("cta", "vessels")):
            stored = np.load(fold_data.validation.volumes[patient] / f"{name}.npy")
            np.testing.assert_array_equal(batch[row, channel], stored.astype(np.float16))


def test_slices_and_index_tensors_choose_patients(fold_data: FoldData) -> None:
    volumes = Volumes(fold_data.validation, ("ncct", "cta"))
    assert len(volumes) == 13
    every = torch.cat([volumes[torch.tensor([i])] for i in range(13)])
    for indices in (slice(2, 5), slice(10, 20), torch.tensor([7, 1])):
        assert torch.equal(volumes[indices], every[indices])


def test_volumes_are_mapped_and_keep_no_file_open(fold_data: FoldData) -> None:
    before = len(os.listdir("/proc/self/fd"))
    volumes = Volumes(fold_data.training, ("ncct", "cta"))
    assert len(os.listdir("/proc/self/fd")) == before
    first = volumes[:1]
    file = fold_data.training.volumes[0] / "ncct.npy"
    changed = np.load(file, mmap_mode="r+")
    changed += 1
    changed.flush()
    assert torch.equal(volumes[:1][:, 0], first[:, 0] + 1)  # a copy would not follow


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY\x01\x00", "cut", np.zeros((16, 14, 12)), np.zeros((3, 2), order="F")]
)
def test_a_damaged_volume_is_reported_with_its_patient(fold_data: FoldData, content: bytes | str | np.ndarray) -> None:
    file = fold_data.training.volumes[2] / "cta.npy"
    if isinstance(content, np.ndarray):
        np.save(file, content)
    else:
        file.write_bytes(file.read_bytes()[:-2] if isinstance(content, str) else content)
    with pytest.raises(PatientError, match="patient p02: damaged volume"):
        Volumes(fold_data.training, ("cta", "vessels"))


def test_statistics_are_those_inside_the_brain(fold_data: FoldData) -> None:
    mean, std = channel_statistics(Volumes(fold_data.training, ("ncct", "cta", "vessels")), fold_data.brain_mask)
    for channel, name in enumerate(("ncct", "cta")):
        stored = [np.load(folder / f"{name}.npy")[fold_data.brain_mask] for folder in fold_data.training.volumes]
        values = np.concatenate(stored).astype(np.float64)
        assert mean[channel] == pytest.approx(values.mean())
        assert std[channel] == pytest.approx(values.std())
    assert (mean[2], std[2]) == (0, 1)


def test_a_missing_volume_is_reported_with_its_patient(fold_data: FoldData) -> None:
    (fold_data.training.volumes[2] / "vessels.npy").unlink()
    with pytest.raises(RlvoError, match=r"patient p02: .*'vessels'"):
        Volumes(fold_data.training, ("cta", "vessels"))


def test_stacked_channels_share_one_type() -> None:
    volumes = {"vessels": np.ones((2, 2, 2), np.uint8), "cta": np.full((2, 2, 2), 40.5, np.float16)}
    stacked = stack_channels(volumes, ("cta", "vessels"))
    assert stacked.dtype == np.float16
    assert stacked[:, 0, 0, 0].tolist() == [40.5, 1]
    with pytest.raises(RlvoError, match="'ncct'"):
        stack_channels(volumes, ("ncct",))
