"""The two sides of the head as the network sees them, by mirroring patients."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.networks import BACKBONES, check_mirror_images, narrow
from torch import Tensor

from rlvo.config.base import content_hash
from rlvo.config.model import BackboneName, Configuration, ModelConfig
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.explain.gradcam import before_and_after
from rlvo.models.backbones import check_volume
from rlvo.models.classifier import Classifier
from rlvo.models.symmetry import Symmetry
from rlvo.training.member import load_classifier

FEATURES = ("age", "occlusion_side=left", "occlusion_side=right")
LEFT, RIGHT = torch.tensor([0.3, 1.0, 0.0]), torch.tensor([0.3, 0.0, 1.0])


def network(config: ModelConfig, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    classifier = Classifier(config, len(FEATURES))
    classifier.standardise_with([30.0] * len(config.channels), [20.0] * len(config.channels))
    classifier.symmetry.read_from(FEATURES)
    return classifier.eval()


def patients(x: int = 16) -> Tensor:
    return torch.randn(2, 2, x, 20, 16, generator=torch.Generator().manual_seed(1)) * 20 + 30


@pytest.mark.parametrize("side", ["canonical", "halves"])
@pytest.mark.parametrize("fusion", ["none", "daft"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_mirrored_patient_with_the_occlusion_on_the_other_side_is_the_same(
    backbone: BackboneName, fusion: str, side: str
) -> None:
    """But for what the fusion makes of the side itself, which is the same here."""
    classifier = network(narrow(backbone, fusion=fusion, side=side))
    volume = patients()
    check_mirror_images(classifier, volume, LEFT, RIGHT)


def test_patients_on_the_left_are_seen_as_they_are() -> None:
    turned, plain = network(narrow(side="canonical")), network(narrow())
    volume, table = patients(), torch.stack([LEFT, LEFT])
    with torch.no_grad():
        torch.testing.assert_close(turned(volume, table), plain(volume, table), rtol=0, atol=0)


@pytest.mark.parametrize("x", [15, 16])
def test_halves_are_the_affected_half_and_the_mirrored_other_one(x: int) -> None:
    symmetry = Symmetry(narrow(side="halves"))
    symmetry.read_from(FEATURES)
    volume = patients(x)
    half = (x + 1) // 2
    assert symmetry.shape((x, 20, 16)) == (half, 20, 16)
    seen = symmetry(volume, torch.stack([LEFT, RIGHT]))
    left, right = volume[:, :, :half], volume[:, :, x - half :].flip(2)
    torch.testing.assert_close(seen[0], torch.cat([left[0], right[0]]))
    torch.testing.assert_close(seen[1], torch.cat([right[1], left[1]]))
    maps = symmetry.restore(seen[:, 0], torch.stack([LEFT, RIGHT]), (x, 20, 16))
    assert maps.shape == (2, x, 20, 16)
    torch.testing.assert_close(maps, maps.flip(1))  # about both halves at once
    torch.testing.assert_close(maps[0, :half], seen[0, 0])


def test_the_mirror_difference_is_zero_in_a_symmetric_head() -> None:
    symmetry, volume = Symmetry(narrow(contrast="mirror_difference")), patients()
    seen = symmetry(volume)
    torch.testing.assert_close(seen[:, :2], volume)
    torch.testing.assert_close(seen[:, 2:], volume - volume.flip(2))
    assert not symmetry(volume + volume.flip(2))[:, 2:].any()


@pytest.mark.parametrize("side", ["canonical", "halves"])
def test_a_map_lies_where_the_patients_voxels_are(side: str) -> None:
    classifier, volume = network(narrow(fusion="none", side=side)), patients()
    torch.nn.init.ones_(classifier.head.weight)
    maps = before_and_after(classifier, volume, torch.stack([LEFT, RIGHT]))
    mirrored = before_and_after(classifier, volume.flip(2), torch.stack([RIGHT, LEFT]))
    for one, other in zip(maps, mirrored, strict=True):
        assert one.shape == (2, 16, 20, 16)
        assert one.any()
        torch.testing.assert_close(one, other.flip(1))


def test_a_model_that_needs_the_side_refuses_to_guess_it() -> None:
    with pytest.raises(ValueError, match="side of the occlusion"):
        network(narrow(fusion="none", side="canonical"))(patients())
    with pytest.raises(ValueError, match="occlusion_side, which tells the affected side"):
        StudyConfig.model_validate({"name": "s", "model": {"side": "halves"}, "cohort": {"predictors": ["age"]}})


def test_the_column_of_the_side_is_kept_with_the_weights(tmp_path: Path) -> None:
    config = narrow(side="halves")
    classifier = network(config)
    save_file(classifier.state_dict(), tmp_path / "w.safetensors")
    loaded = load_classifier(tmp_path / "w.safetensors", config, len(FEATURES))
    table = torch.stack([LEFT, RIGHT])
    with torch.no_grad():
        torch.testing.assert_close(loaded(patients(), table), classifier(patients(), table), rtol=0, atol=0)


def test_models_of_before_keep_their_weights_names_and_keys() -> None:
    assert not [name for name in network(narrow()).state_dict() if name.startswith("symmetry")]
    plain = Configuration(model=narrow())
    content = plain.model_dump(mode="json")
    assert not {"side", "contrast"} & set(content["model"])
    assert plain.key == content_hash(content)[:12]
    keys = {Configuration(model=narrow(side=side)).key for side in ("as_is", "canonical", "halves")}
    assert len(keys) == 3
    assert Configuration(model=narrow(side="halves")).label == "densenet121 BOTH halves daft"
    both = Configuration(model=narrow(side="halves", contrast="mirror_difference"))
    assert both == Configuration(model=narrow(side="halves"))


def test_halves_need_twice_the_width() -> None:
    check_volume(narrow(), (5, 5, 5), 2)
    check_volume(narrow(side="halves"), (9, 5, 5), 2)
    with pytest.raises(RlvoError, match="smallest cube that works is 9×9×9"):
        check_volume(narrow(side="halves"), (8, 5, 5), 2)
