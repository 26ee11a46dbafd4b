import pytest
import torch

from rlvo.config.grid import Grid
from rlvo.config.training import AugmentationConfig
from rlvo.training.augmentation import Changes, flip_and_shift, jitter, side_columns

NAMES = ("age", "occlusion_side=left", "occlusion_side=right", "nihss")


Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    volumes = torch.randn(40, 2, 6, 5, 4)
    tabular = torch.rand(40, 4)
    tabular[:, 1] = (torch.arange(40) % 2).float()
    tabular[:, 2] = 1 - tabular[:, 1]
    return volumes, tabular


def drawn(patients: int = 40, images: int = 2, **config: float) -> Changes:
    return Changes.draw(AugmentationConfig.model_validate(config), patients, images)


def test_a_flip_mirrors_x_and_swaps_the_side(batch: Batch) -> None:
    volumes, tabular = flip_and_shift(*batch, drawn(flip=1, shift_voxels=0), side_columns(NAMES))
    assert torch.equal(volumes, batch[0].flip(2))
    assert torch.equal(tabular, batch[1][:, [0, 2, 1, 3]])


def test_flips_are_per_patient_and_consistent(batch: Batch) -> None:
    volumes, tabular = flip_and_shift(*batch, drawn(flip=0.5, shift_voxels=0), side_columns(NAMES))
    flipped = [torch.equal(volume, before.flip(1)) for volume, before in zip(volumes, batch[0], strict=True)]
    kept = [torch.equal(volume, before) for volume, before in zip(volumes, batch[0], strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 40
    assert 8 < sum(flipped) < 32
    swapped = (tabular[:, 1] != batch[1][:, 1]).tolist()
    assert swapped == flipped


def test_a_crop_is_moved_by_up_to_so_many_mm_along_each_axis_and_only_a_crop() -> None:
    config, grid = AugmentationConfig(crop_shift_mm=6), Grid(shape=(9, 9, 9), spacing=(1, 2, 4), origin=(0, 0, 0))
    torch.manual_seed(3)
    plain, after = Changes.draw(config, 600, 1), torch.rand(1)
    torch.manual_seed(3)
    moved = Changes.draw(config, 600, 1, grid)
    assert torch.equal(plain.shifts, moved.shifts)
    assert torch.equal(plain.flipped, moved.flipped)
    torch.manual_seed(3)
    Changes.draw(AugmentationConfig(), 600, 1)
    assert torch.equal(after, torch.rand(1)), "without a crop nothing more is drawn"
    assert plain.moves is None
    assert moved.moves is not None
    expected = [[*range(-6, 7)], [*range(-3, 4)], [-1, 0, 1]]
    assert [sorted(set(axis.tolist())) for axis in moved.moves.T] == expected
    inner = (moved.moves[:, 0].abs() <= 5).float().mean().item()
    assert inner == pytest.approx(11 / 12, abs=0.05)  # uniform, apart from the ends, which are half as wide
    parts = [part.moves for part in moved.split([200, 400])]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), moved.moves)
    assert Changes.draw(AugmentationConfig(crop_shift_mm=0), 5, 1, grid).moves is None


def test_without_flips_and_shifts_nothing_changes(batch: Batch) -> None:
    unchanged = flip_and_shift(*batch, drawn(flip=0, shift_voxels=0), side_columns(NAMES))
    assert all(torch.equal(after, before) for after, before in zip(unchanged, batch, strict=True))


def test_a_shift_moves_by_whole_voxels_and_repeats_the_edge(batch: Batch) -> None:
    volumes, _ = flip_and_shift(*batch, drawn(flip=0, shift_voxels=1), [])
    padded = torch.nn.functional.pad(batch[0], (1,) * 6, mode="replicate")
    offsets = [(x, y, z) for x in range(3) for y in range(3) for z in range(3)]
    seen = set()
    for moved, source in zip(volumes, padded, strict=True):
        matches = {
            offset
            for offset in offsets
            if torch.equal(moved, source[:, offset[0] :, offset[1] :, offset[2] :][:, :6, :5, :4])
        }
        assert len(matches) == 1
        seen |= matches
    assert len(seen) > 10


def test_if_the_side_is_not_a_predictor_the_table_is_untouched(batch: Batch) -> None:
    assert side_columns(("age", "nihss")) == []
    _, tabular = flip_and_shift(*batch, drawn(flip=1), [])
    assert torch.equal(tabular, batch[1])


def test_jitter_scales_and_offsets_images_only(batch: Batch) -> None:
    mean, std = torch.tensor([40.0, 0.0]), torch.tensor([8.0, 1.0])
    volumes = batch[0] * 8 + 40
    intensities = drawn(images=1, intensity=0.1).intensities
    assert intensities is not None
    jittered = jitter(volumes, mean, std, intensities)
    assert torch.equal(jittered[:, 1], volumes[:, 1])
    before, after = ((part[:, 0] - 40) / 8 for part in (volumes, jittered))
    scale = after.flatten(1).std(1) / before.flatten(1).std(1)
    offset = (after - scale[:, None, None, None] * before).flatten(1)
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset), rtol=0, atol=1e-4)
    assert 0.05 < (scale - 1).std() < 0.2
    assert 0.05 < offset[:, 0].std() < 0.2


@pytest.mark.parametrize("intensity", [0, 0.1])
def test_the_changes_of_parts_are_those_of_the_batch(batch: Batch, intensity: float) -> None:
    changes, (mean, std), sizes = drawn(intensity=intensity), torch.tensor([[0.0, 1], [1, 2]]), [17, 22, 1]

    def changed(volumes: torch.Tensor, tabular: torch.Tensor, own: Changes) -> list[torch.Tensor]:
        volumes, tabular = flip_and_shift(volumes, tabular, own, side_columns(NAMES))
        return [volumes if own.intensities is None else jitter(volumes, mean, std, own.intensities), tabular]

    parts = map(changed, *(torch.split(values, sizes) for values in batch), changes.split(sizes))
    for of_parts, whole in zip(zip(*parts, strict=True), changed(*batch, changes), strict=True):
        assert torch.equal(torch.cat(of_parts), whole)
