import numpy as np
import pytest
import torch

from rlvo.errors import RlvoError
from rlvo.training import dataset
from rlvo.training.dataset import FoldData, Volumes, channel_statistics, stack_channels


def test_volumes_are_the_stores_in_channel_order(fold_data: FoldData) -> None:
    volumes = Volumes(fold_data.validation, ("cta", "vessels"))
    batch = volumes[torch.tensor([3, 0])]
    assert batch.dtype == torch.float32
    assert batch.shape == (2, 2, 16, 14, 12)
    for row, patient in enumerate((3, 0)):
        for channel, name in enumerate(("cta", "vessels")):
            stored = np.load(fold_data.validation.volumes[patient] / f"{name}.npy")
            np.testing.assert_array_equal(batch[row, channel], stored.astype(np.float32))


def test_reading_as_needed_equals_keeping_in_memory(fold_data: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Volumes(fold_data.validation, ("ncct", "cta"))
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    read = Volumes(fold_data.validation, ("ncct", "cta"))
    assert len(kept) == len(read) == 13
    for indices in (slice(2, 5), slice(10, 20), torch.tensor([7, 1])):
        assert torch.equal(kept[indices], read[indices])


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
