"""A network that looks at a box around the arteries, or around the occlusion, instead of the whole volume."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvo.config.arteries import PARTS, Box, middle, occlusion_box, vessels_box
from rlvo.config.grid import Grid
from rlvo.config.model import ModelConfig
from rlvo.errors import RlvoError
from rlvo.models.backbones import check_volume
from rlvo.models.symmetry import Symmetry

SITES = tuple(f"occlusion_site={site}" for site in PARTS)


def box_of(config: ModelConfig, grid: Grid) -> Box:
    """The box that a model with a crop looks at."""
    return occlusion_box(grid) if config.crop == "occlusion" else vessels_box(grid, half=config.side == "halves")


def as_whole(config: ModelConfig, shape: Sequence[int], grid: Grid | None) -> tuple[ModelConfig, tuple[int, ...]]:
    """The model without a crop whose image network is given the same, and the shape of the volumes that it cuts to it.

    Args:
        shape: voxels of the prepared volumes.
        grid: theirs; needed if the model crops.
    """
    if config.crop == "whole":
        return config, tuple(shape)
    x, y, z = box_of(config, _needed(grid)).size
    return config.model_copy(update={"crop": "whole"}), (2 * x if config.side == "halves" else x, y, z)


def check_seen(config: ModelConfig, shape: Sequence[int], grid: Grid | None, batch_size: int) -> None:
    """Check, as `backbones.check_volume` does, that a model can be trained on what it is given of such volumes.

    Raises RlvoError if that is too small.
    """
    try:
        check_volume(*as_whole(config, shape, grid), batch_size)
    except RlvoError:
        if config.crop == "whole" or grid is None:
            raise
        voxels = "×".join(map(str, box_of(config, grid).size))
        what = (
            f"model.crop: {config.crop} gives {voxels} voxels, too few for {config.backbone} at batch size {batch_size}"
        )
        raise RlvoError(what, where="grid", fix="Use a finer grid, a larger batch, or a shallower backbone") from None


class Crop(Symmetry):
    """Cuts a box out of each volume, and turns and compares the sides within it, as `model.side` and `contrast` say.

    `vessels`: one box for all, symmetric about the midline, which is the middle of the grid. `occlusion`: a box on the
    affected side, where occlusions of the patient's site are; if they are on the right, it lies where the mirror image
    of the left one does. The box is compared with what lies at its own mirror image.

    The box is saved with the weights as buffers, which `read_from` sets: its `size` in voxels, its `corners` for an
    occlusion on the left, by site, and which columns of the encoded table tell the `sites`.
    """

    corners: Tensor
    size: Tensor
    sites: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.config = config
        self.compares = config.side == "halves" or config.contrast != "none"
        self.at_occlusion = config.crop == "occlusion"
        places = len(SITES) if self.at_occlusion else 1
        self.register_buffer("corners", torch.zeros(places, 3, dtype=torch.long))
        self.register_buffer("size", torch.zeros(3, dtype=torch.long))
        if self.at_occlusion:
            self.register_buffer("sites", torch.zeros(places, dtype=torch.long))
        self._size: tuple[int, ...] = (0, 0, 0)  # of the buffer, for which a GPU would have to be waited for
        self.register_load_state_dict_post_hook(_know_size)  # type: ignore[no-untyped-call]

    def read_from(self, feature_names: Sequence[str], grid: Grid | None = None) -> None:
        """Find side and site among the columns of the encoded table, and the box on the grid.

        Raises ValueError if something is needed and not there.
        """
        super().read_from(feature_names, grid)
        if self.at_occlusion:
            self.sites = torch.tensor([feature_names.index(name) for name in SITES])
        box = box_of(self.config, _needed(grid))
        self.corners, self.size, self._size = torch.tensor(box.corners), torch.tensor(box.size), box.size

    def cut(self, volume: Tensor, tabular: Tensor | None = None, moves: Tensor | None = None) -> Tensor:
        """[B, C, X, Y, Z] → the box [B, C, x, y, z]; behind it along x its mirror image, if they are compared."""
        x, y, z = self._places(volume.shape[2:], len(volume), tabular, moves)
        if self.compares:
            x = torch.cat([x, volume.shape[2] - 1 - x], dim=1)
        flat = _flat(x, y, z, volume.shape[2:])
        cut = volume.flatten(2).gather(2, flat[:, None].expand(-1, volume.shape[1], -1))
        return cut.view(*volume.shape[:2], x.shape[1], y.shape[1], z.shape[1])

    def forward(self, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
        """What `cut` gives, standardised → what the backbone takes."""
        if not self.compares:
            return volume
        own, other = volume.chunk(2, dim=2)
        return torch.cat([own, other if self.side == "halves" else own - other], dim=1)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Voxels of the box, whatever the volumes' shape."""
        return self._size

    def restore(self, maps: Tensor, tabular: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Maps [B, x, y, z] on the box → [B, *shape], where the patients' voxels are; 0 outside the box."""
        x, y, z = self._places(shape, len(maps), tabular, None)
        whole = maps.new_zeros(len(maps), shape[0] * shape[1] * shape[2])
        for own in (x, shape[0] - 1 - x) if self.side == "halves" else (x,):
            whole.scatter_(1, _flat(own, y, z, shape), maps.flatten(1))
        return whole.view(len(maps), *shape)

    def _places(
        self, shape: Sequence[int], patients: int, tabular: Tensor | None, moves: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The voxels of each patient's box along each axis of a volume, [B, x], [B, y], [B, z]."""
        if self.at_occlusion:
            if tabular is None:
                raise ValueError("this model needs side and site of the occlusion from the table")
            corner = self.corners[tabular.index_select(1, self.sites).argmax(dim=1)]
        else:
            corner = self.corners.expand(patients, 3)
        if moves is not None:
            corner = corner + moves
        ends = (middle(shape[0]) if self.at_occlusion or self.side == "halves" else shape[0], *shape[1:])
        x, y, z = (
            corner[:, axis].clamp(0, end - size)[:, None] + torch.arange(size, device=corner.device)
            for axis, (size, end) in enumerate(zip(self._size, ends, strict=True))
        )
        if self.needs_side:
            mirrored = shape[0] - 1 - x
            x = torch.where(self._is_right(tabular)[:, None], mirrored if self.side != "as_is" else mirrored.flip(1), x)
        return x, y, z


def _flat(x: Tensor, y: Tensor, z: Tensor, shape: Sequence[int]) -> Tensor:
    """Indices [B, x·y·z] into volumes of a shape that were made flat."""
    return ((x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]).flatten(1)


def _needed(grid: Grid | None) -> Grid:
    if grid is None:
        raise ValueError("a model with a crop needs the grid")
    return grid


def _know_size(crop: Crop, keys: object) -> None:
    crop._size = tuple(crop.size.tolist())
