"""What is hidden from the network stays hidden, whatever it sees of the two sides, and the loss counts nothing else."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvo.config.grid import PRESETS, Grid
from rlvo.config.model import ModelConfig
from rlvo.training.masked import BLOCK_MM, HIDDEN, MaskedTask, draw_blocks, draw_places

GRID = Grid(shape=(18, 14, 13), spacing=(4, 8, 5), origin=(-36, -56, -32))
BLOCK = (4, 2, 3)
SMALL = {"init_features": 4, "growth_rate": 4, "block_config": (1, 1), "stem_kernel": 3}
LAYOUTS = [
    {"modality": "NCCT"},
    {"side": "canonical", "prior": True},
    {"side": "halves", "prior": True},
    {"contrast": "mirror_difference"},
    {"crop": "occlusion", "side": "halves"},
    {"crop": "vessels", "contrast": "mirror_difference"},
]


def task_of(grid: Grid = GRID, **model: object) -> MaskedTask:
    torch.manual_seed(0)
    spec = {"backbone": "densenet121", "densenet": SMALL, "fusion": "none", **model}
    task = MaskedTask(ModelConfig.model_validate(spec), grid)
    channels = len(task.classifier.channel_mean)
    task.classifier.standardise_with([30.0, 90.0, 0.0][:channels], [8.0, 20.0, 1.0][:channels])
    return task.eval()


def volumes(task: MaskedTask, grid: Grid, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return 40 + 20 * torch.randn(2, len(task.classifier.channel_mean), *grid.shape)


def test_blocks_are_whole_and_half_of_them_are_hidden() -> None:
    torch.manual_seed(3)
    hidden = draw_blocks((32, 24, 20), (4, 6, 5), 200)[:, 0].numpy()
    assert hidden.mean() == pytest.approx(HIDDEN, abs=0.01)
    assert len(np.unique(hidden.reshape(200, -1), axis=0)) == 200, "each patient has others"
    for axis, side in ((1, 4), (2, 6), (3, 5)):
        edges = np.flatnonzero(np.diff(hidden, axis=axis).any(axis=tuple({0, 1, 2, 3} - {axis})))
        assert len(set((edges % side).tolist())) == 1, "blocks end in the same places, a side apart"


def test_blocks_have_a_size_in_mm() -> None:
    assert task_of().block == BLOCK == tuple(round(BLOCK_MM / spacing) for spacing in GRID.spacing)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_network_sees_nothing_of_what_is_hidden_and_all_of_the_rest(layout: dict[str, object]) -> None:
    """Other intensities where voxels are hidden change no answer, and elsewhere they do."""
    grid = PRESETS["arteries"] if "crop" in layout else GRID
    task, places = task_of(grid, **layout), draw_places(2)
    moves = torch.zeros(2, 3, dtype=torch.long)
    one, other, head = volumes(task, grid, 1), volumes(task, grid, 2), torch.ones(2, 1, *grid.shape)
    cut = task.classifier.symmetry.cut(torch.arange(grid.shape[0] * grid.shape[1] * grid.shape[2])
                                       .view(1, 1, *grid.shape).expand(2, -1, -1, -1, -1), places, moves)  # fmt: skip
    torch.manual_seed(5)
    hidden = draw_blocks(cut.shape[2:], task.block, 2)

    def told(mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(5)
        with torch.inference_mode():
            return task.tell(mixed, head, places, moves)

    def mixed(where: Tensor) -> Tensor:
        """`other` at the voxels of the cut where that holds; a voxel may be in it twice."""
        flat, result = cut.flatten(1), one.flatten(2).clone()
        for patient in range(2):
            chosen = flat[patient][where.flatten(1)[patient]]
            result[patient][:, chosen] = other.flatten(2)[patient][:, chosen]
        return result.view_as(one)

    seen_twice = torch.isin(cut, cut[~hidden])  # boxes beside the midline overlap their mirror images
    target, answer, counted = told(one)
    changed_target, same_answer, _ = told(mixed(hidden & ~seen_twice))
    assert torch.equal(answer, same_answer)
    assert not torch.equal(target, changed_target)
    assert not torch.allclose(answer, told(mixed(~hidden))[1])
    assert 0.3 < counted.mean() < 0.7


def test_the_loss_counts_hidden_voxels_of_images_inside_the_head_and_no_others() -> None:
    task = task_of(modality="BOTH", prior=True)
    task.means = torch.tensor([0.2, -0.1])
    volume, places = volumes(task, GRID, 1), draw_places(2)
    head = torch.zeros(2, 1, *GRID.shape)
    head[:, :, 3:14, 2:11, 4:] = 1
    torch.manual_seed(5)
    hidden = draw_blocks(GRID.shape, BLOCK, 2).numpy()
    with torch.inference_mode():
        torch.manual_seed(5)
        _, told, _ = task.tell(volume, head, places)
        torch.manual_seed(5)
        found = task.sums(volume, head, places).numpy()
    images = volume.numpy()[:, :2].astype(float)
    standardised = np.arcsinh(
        (images - np.array([30, 90])[:, None, None, None]) / np.array([8, 20])[:, None, None, None]
    )
    counts = np.broadcast_to(hidden & (head.numpy() > 0), images.shape)
    errors = (told.numpy() - standardised)[counts]
    means = (np.array([0.2, -0.1])[:, None, None, None] - standardised)[counts]
    np.testing.assert_allclose(found, [(errors**2).sum(), (means**2).sum()], rtol=1e-4)
