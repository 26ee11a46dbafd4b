"""Boxes cut out of volumes, against boxes that were placed by hand on a grid of 1 mm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.networks import BACKBONES, check_mirror_images, narrow
from torch import Tensor

from rlvo.config.base import content_hash
from rlvo.config.grid import PRESETS, Grid
from rlvo.config.model import BackboneName, Configuration
from rlvo.config.study import StudyConfig
from rlvo.config.training import AugmentationConfig, TrainingConfig
from rlvo.explain.gradcam import before_and_after
from rlvo.models.backbones import check_volume
from rlvo.models.classifier import Classifier
from rlvo.models.crop import Crop, as_whole
from rlvo.models.symmetry import Symmetry
from rlvo.training.member import load_classifier

FINE = Grid(shape=(160, 120, 120), spacing=(1, 1, 1), origin=(-79.5, -60.25, -70.25))
COARSE = Grid(shape=(32, 26, 28), spacing=(4, 4, 4), origin=(-62, -50, -66))
FEATURES = (
    "occlusion_site=TICA", "occlusion_site=M1", "occlusion_site=M2", "age",
    "occlusion_side=left", "occlusion_side=right",
)  # fmt: skip
Y, Z = slice(49, 85), slice(35, 82)
"""Voxels of the box around an M1 occlusion: 36 mm around y = 6, 47 mm around z = −12 (RAS mm)."""


def row(side: str, site: str = "M1") -> Tensor:
    table = torch.tensor([float(name.endswith(("=" + side, "=" + site))) for name in FEATURES])
    table[3] = 0.3
    return table


LEFT, RIGHT = row("left"), row("right")


def placed(grid: Grid = FINE, **choices: Any) -> Crop:
    crop = Crop(narrow(**choices))
    crop.read_from(FEATURES, grid)
    return crop


def network(grid: Grid = COARSE, seed: int = 0, backbone: BackboneName = "densenet121", **choices: Any) -> Classifier:
    torch.manual_seed(seed)
    config = narrow(backbone, **choices)
    classifier = Classifier(config, len(FEATURES))
    classifier.standardise_with([30.0] * len(config.channels), [20.0] * len(config.channels))
    classifier.symmetry.read_from(FEATURES, grid)
    return classifier.eval()


def patients(grid: Grid = COARSE, count: int = 2, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *grid.shape, generator=generator) * 20 + 30


def numbered() -> Tensor:
    """Each voxel of the fine grid has its own value."""
    return torch.arange(160 * 120 * 120, dtype=torch.float32).view(1, 1, 160, 120, 120)


def test_the_box_around_the_occlusion_lies_where_the_atlas_says() -> None:
    """M1 on the left: x from −49 to −2 mm. A right one's is its mirror image, and no box crosses the midline."""
    crop, volume = placed(crop="occlusion"), numbered()
    seen = crop(
        crop.cut(volume.expand(4, -1, -1, -1, -1), torch.stack([LEFT, RIGHT, row("left", "TICA"), row("right", "M2")]))
    )
    assert seen.shape == (4, 1, 47, 36, 47) == (4, 1, *crop.shape(FINE.shape))
    assert torch.equal(seen[0], volume[0, :, 31:78, Y, Z])
    assert torch.equal(seen[1], volume[0, :, 82:129, Y, Z])
    assert torch.equal(seen[2], volume[0, :, 33:80, 48:84, 25:72])
    assert torch.equal(seen[3], volume[0, :, 93:140, Y, 44:91])


def test_the_box_around_the_vessels_is_symmetric_and_the_same_for_all() -> None:
    """120 mm around the midline, y from −36 to 24 mm, z from −60 to 20 mm; it needs no table."""
    crop, volume = placed(crop="vessels"), numbered()
    box = volume[:, :, 20:140, 25:85, 11:91]
    assert torch.equal(crop(crop.cut(volume)), box)
    turned = placed(crop="vessels", side="canonical")
    seen = turned(turned.cut(volume.expand(2, -1, -1, -1, -1), torch.stack([LEFT, RIGHT])))
    assert torch.equal(seen, torch.cat([box, box.flip(2)]))


def test_canonical_turns_the_box_and_halves_put_the_mirrored_other_one_beside_it() -> None:
    volume, tables = numbered().expand(2, -1, -1, -1, -1), torch.stack([LEFT, RIGHT])
    left, right = volume[:1, :, 31:78, Y, Z], volume[:1, :, 82:129, Y, Z]
    turned = placed(crop="occlusion", side="canonical")
    assert torch.equal(turned(turned.cut(volume, tables)), torch.cat([left, right.flip(2)]))
    halves = placed(crop="occlusion", side="halves")
    expected = torch.cat([torch.cat([left, right.flip(2)], 1), torch.cat([right.flip(2), left], 1)])
    assert torch.equal(halves(halves.cut(volume, tables)), expected)
    both = placed(crop="vessels", side="halves")
    left, right = volume[:1, :, 20:80, 25:85, 11:91], volume[:1, :, 80:140, 25:85, 11:91].flip(2)
    expected = torch.cat([torch.cat([left, right], 1), torch.cat([right, left], 1)])
    assert torch.equal(both(both.cut(volume, tables)), expected)


@pytest.mark.parametrize("crop", ["occlusion", "vessels"])
@pytest.mark.parametrize("side", ["as_is", "canonical"])
def test_the_difference_is_that_from_the_mirrored_head(crop: str, side: str) -> None:
    different, plain = (placed(crop=crop, side=side, contrast=each) for each in ("mirror_difference", "none"))
    volume, tables = patients(FINE, channels=1), torch.stack([LEFT, RIGHT])
    seen = different(different.cut(volume, tables))
    own, mirrored = (plain(plain.cut(each, tables)) for each in (volume, volume - volume.flip(2)))
    assert torch.equal(seen, torch.cat([own, mirrored], dim=1))


def test_in_training_the_box_moves_within_the_grid_and_its_mirror_image_with_it() -> None:
    crop, volume = placed(crop="occlusion", side="halves"), numbered().expand(3, -1, -1, -1, -1)
    moves = torch.tensor([[2, -3, 4], [2, -3, 4], [99, -99, 99]])
    seen = crop(crop.cut(volume, torch.stack([LEFT, RIGHT, LEFT]), moves))
    left, right = volume[0, :, 33:80, 46:82, 39:86], volume[0, :, 80:127, 46:82, 39:86].flip(1)
    assert torch.equal(seen[0], torch.cat([left, right]))
    assert torch.equal(seen[1], torch.cat([right, left]))
    assert torch.equal(seen[2, :1], volume[0, :, 33:80, :36, 73:])


@pytest.mark.parametrize("odd", [0, 1])
def test_a_box_is_as_large_as_the_grid_at_most(odd: int) -> None:
    small = Grid(shape=(10 + odd, 4, 5), spacing=(8, 8, 8), origin=(-36 - 4 * odd, -10, -30))
    volume, half = patients(small), 5 + odd
    whole, turned = placed(small, crop="vessels"), placed(small, crop="vessels", side="halves")
    assert torch.equal(whole(whole.cut(volume)), volume)
    expected = Symmetry(narrow(side="halves"))
    expected.read_from(FEATURES)
    tables = torch.stack([LEFT, RIGHT])
    assert torch.equal(turned(turned.cut(volume, tables)), expected(volume, tables))
    assert placed(small, crop="occlusion").shape(small.shape) == (min(6, half), 4, 5)


@pytest.mark.parametrize("choices", [{"side": "canonical"}, {"side": "halves"}], ids=str)
@pytest.mark.parametrize("crop", ["occlusion", "vessels"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_mirrored_patient_with_the_occlusion_on_the_other_side_is_the_same(
    backbone: BackboneName, crop: str, choices: dict[str, str]
) -> None:
    classifier, volume = network(backbone=backbone, fusion="none", crop=crop, **choices), patients()
    check_mirror_images(classifier, volume, LEFT, RIGHT)


@pytest.mark.parametrize("choices", [{}, {"side": "halves"}, {"contrast": "mirror_difference"}], ids=str)
@pytest.mark.parametrize("crop", ["occlusion", "vessels"])
def test_what_lies_outside_the_box_changes_nothing(crop: str, choices: dict[str, str]) -> None:
    """The box is found by changing one voxel at a time; with two sides compared, its mirror image counts too."""
    classifier, table = network(fusion="daft", crop=crop, **choices), torch.stack([RIGHT])
    volume = patients(count=1)
    where = classifier.symmetry.restore(torch.ones(1, *classifier.symmetry.shape(COARSE.shape)), table, COARSE.shape)
    inside = where.bool() | (where.flip(1).bool() if choices else False)
    assert 0 < inside.sum() < inside.numel() / 2
    with torch.no_grad():
        own = classifier(volume, table)
        assert torch.equal(classifier(torch.where(inside[:, None], volume, -500.0), table), own)
        assert not torch.equal(classifier(torch.where(inside[:, None], -500.0, volume), table), own)


@pytest.mark.parametrize("crop", ["occlusion", "vessels"])
@pytest.mark.parametrize("side", ["as_is", "canonical", "halves"])
def test_a_map_lies_where_the_patients_voxels_are(crop: str, side: str) -> None:
    classifier, volume = network(fusion="none", crop=crop, side=side), patients()
    tables = torch.stack([LEFT, RIGHT])
    symmetry = classifier.symmetry
    own = symmetry.cut(volume, tables)[:, 0, : symmetry.shape(COARSE.shape)[0]]
    restored = symmetry.restore(own, tables, COARSE.shape)
    if side == "halves":
        assert torch.equal(restored, restored.flip(1))
        restored = torch.stack([restored[0, :16], restored[1, 16:]])
        volume = torch.stack([volume[0, :, :16], volume[1, :, 16:]])
    assert torch.equal(restored, torch.where(restored != 0, volume[:, 0], 0.0))
    assert (restored != 0).sum() == own.numel()


@pytest.mark.parametrize("side", ["as_is", "canonical", "halves"])
def test_saliency_is_on_the_whole_grid_and_zero_outside_the_box(side: str) -> None:
    classifier, volume = network(fusion="none", crop="occlusion", side=side), patients()
    torch.nn.init.ones_(classifier.head.weight)
    tables = torch.stack([LEFT, RIGHT])
    maps = before_and_after(classifier, volume, tables).after
    inside = classifier.symmetry.restore(torch.ones(2, *classifier.symmetry.shape(COARSE.shape)), tables, COARSE.shape)
    assert maps.shape == (2, *COARSE.shape)
    assert maps.any()
    assert not maps[inside == 0].any()
    if side != "as_is":
        mirrored = before_and_after(classifier, volume.flip(2), torch.stack([RIGHT, LEFT])).after
        torch.testing.assert_close(maps, mirrored.flip(1))


@pytest.mark.parametrize("choices", [{"crop": "vessels"}, {"crop": "occlusion", "side": "halves"}], ids=str)
def test_the_box_is_kept_with_the_weights(choices: dict[str, str], tmp_path: Path) -> None:
    """Whoever loads them needs no grid."""
    classifier = network(**choices)
    save_file(classifier.state_dict(), tmp_path / "w.safetensors")
    loaded = load_classifier(tmp_path / "w.safetensors", narrow(**choices), len(FEATURES))
    assert loaded.symmetry.shape(COARSE.shape) == classifier.symmetry.shape(COARSE.shape)
    tables = torch.stack([LEFT, row("right", "M2")])
    with torch.no_grad():
        torch.testing.assert_close(loaded(patients(), tables), classifier(patients(), tables), rtol=0, atol=0)


@pytest.mark.parametrize("side", ["as_is", "canonical", "halves"])
@pytest.mark.parametrize("crop", ["whole", "vessels", "occlusion"])
def test_what_it_costs_is_what_a_whole_volume_of_the_same_size_costs(crop: str, side: str) -> None:
    """Only the size of what the image network takes counts, which is seen when it is asked."""
    classifier, given = network(fusion="none", crop=crop, side=side), list[tuple[int, ...]]()
    classifier.backbone.features.register_forward_pre_hook(lambda layer, values: given.append(tuple(values[0].shape)))
    with torch.no_grad():
        classifier(patients(), torch.stack([LEFT, RIGHT]))
    config, shape = as_whole(narrow(fusion="none", crop=crop, side=side), COARSE.shape, COARSE)
    assert given == [(2, config.input_channels, *Symmetry(config).shape(shape))]
    assert config == narrow(fusion="none", side=side)
    check_volume(config, shape, 2)


def test_models_without_a_crop_keep_their_weights_names_and_keys() -> None:
    plain = Configuration(model=narrow())
    content = plain.model_dump(mode="json")
    assert "crop" not in content["model"]
    assert "crop_shift_mm" not in content["training"]["augmentation"]
    assert plain.key == content_hash(content)[:12]

    def configured(crop: str = "whole", shift: float = 4.0) -> Configuration:
        training = TrainingConfig(augmentation=AugmentationConfig(crop_shift_mm=shift))
        return Configuration(model=narrow(crop=crop), training=training)

    assert configured(shift=9).key == plain.key
    keys = {configured(crop, shift).key for crop in ("whole", "vessels", "occlusion") for shift in (0, 4)}
    assert len(keys) == 5
    again = Configuration.model_validate_json(configured("occlusion", 0).model_dump_json())
    assert again == configured("occlusion", 0)
    label = Configuration(model=narrow(crop="occlusion", side="halves")).label
    assert label == "densenet121 BOTH occlusion-crop halves daft"


def study(
    grid: Grid | str = FINE, predictors: tuple[str, ...] = ("occlusion_side", "occlusion_site"), **model: str
) -> StudyConfig:
    content = {"name": "s", "grid": grid, "cohort": {"predictors": predictors}, "model": model}
    return StudyConfig.model_validate(content)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_the_boxes(preset: str) -> None:
    assert study(preset, crop="vessels").grid == study(preset, crop="occlusion").grid


def test_a_model_that_needs_a_place_refuses_to_guess_it() -> None:
    with pytest.raises(ValueError, match="side and site of the occlusion"):
        network(fusion="none", crop="occlusion")(patients())
    with pytest.raises(ValueError, match="needs the grid"):
        Crop(narrow(crop="vessels")).read_from(FEATURES)
    with pytest.raises(ValueError, match=r"model\.crop: cohort\.predictors lacks occlusion_site, which tells where"):
        study(predictors=("occlusion_side",), crop="occlusion")
    assert study(predictors=("age",), crop="vessels").model.looked_up == ()
    lopsided, low = (
        FINE.model_copy(update={"origin": (-70, -60, -70)}),
        FINE.model_copy(update={"origin": (-79.5, -60, -140)}),
    )
    with pytest.raises(ValueError, match="equally far to the right and to the left"):
        study(lopsided, crop="vessels")
    with pytest.raises(ValueError, match="does not hold the place of M1 occlusions"):
        study(low, crop="occlusion")
    assert study(lopsided).model.crop == "whole"


def test_the_models_of_a_study_may_differ_in_what_they_look_at() -> None:
    """The shift of the box is no axis of those that have none."""
    space = {"model.crop": ["whole", "vessels", "occlusion"], "training.augmentation.crop_shift_mm": [0, 6]}
    content = {"name": "s", "grid": FINE, "space": {"enumerate": space}}
    config = StudyConfig.model_validate(content)
    assert len(config.combinations()) == 5
    assert len({config.configuration(each).key for each in config.combinations()}) == 5
