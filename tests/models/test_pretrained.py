"""Weights that others trained: every tensor is accounted for, a wrong file is refused, and nothing in one is run."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from monai.networks.nets.resnet import ResNetFeatures
from monai.networks.nets.segresnet_ds import SegResNetDS
from safetensors.torch import load_file, save_file
from support.commands import refused, run
from torch import Tensor, nn

from rlvo.config.model import BackboneName, ModelConfig
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.models.backbones import build_backbone
from rlvo.models.converting import AXES, convert
from rlvo.models.pretrained import match, seen_metadata, seen_scans, start_from

TEN: BackboneName = "medicalnet-resnet10"


def spec(backbone: BackboneName = TEN, **choices: object) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": backbone, "modality": "CTA", "fusion": "none", **choices})


@pytest.fixture(scope="module")
def monais() -> nn.Module:
    """MONAI's MedicalNet ResNet-10 with random weights and statistics."""
    torch.manual_seed(0)
    network = ResNetFeatures("resnet10", pretrained=False, in_channels=1).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(layer.bias, 0, 0.3)
    return network


@pytest.fixture(scope="module")
def checkpoint(monais: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as MedicalNet published them: by DataParallel's names, beside the optimizer's state."""
    path = tmp_path_factory.mktemp("checkpoint") / "resnet_10.pth"
    weights = {f"module.{name}": tensor for name, tensor in monais.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, path)
    return path


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    """The same as `rlvo convert-weights` writes it."""
    path = checkpoint.with_suffix(".safetensors")
    path.write_bytes(convert(checkpoint, TEN).data)
    return path


def started(path: Path, **choices: object) -> nn.Module:
    """A backbone that starts from the file, in evaluation."""
    model = spec(**choices, pretrained={"sha256": file_sha256(path)})
    backbone = build_backbone(model)
    start_from(backbone, model, path)
    return backbone.eval()


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_a_network_started_from_monais_weights_is_monais_to_the_bit(monais: nn.Module, converted: Path) -> None:
    ours = started(converted)
    assert {*load_file(converted)} == {*monais.state_dict()} == {*ours.features.state_dict()}  # type: ignore[operator,union-attr]
    volume = torch.randn(2, 1, 20, 33, 24)
    with torch.inference_mode():
        torch.testing.assert_close(torch.relu(ours(volume)), monais(volume)[-1], rtol=0, atol=0)


@pytest.mark.parametrize(("choices", "channels"), [({"modality": "BOTH"}, 2), ({"modality": "BOTH", "prior": True}, 3)])
def test_a_volume_that_is_the_same_in_all_channels_gives_the_same_maps(
    choices: dict[str, Any], channels: int, monais: nn.Module, converted: Path
) -> None:
    ours, volume = started(converted, **choices), torch.randn(1, 1, 20, 33, 24)
    with torch.inference_mode():
        expected = monais(volume)[-1]
        seen = torch.relu(ours(volume.expand(-1, channels, -1, -1, -1)))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("choices", [{"side": "halves"}, {"contrast": "mirror_difference"}])
def test_weights_of_one_volume_and_its_mirror_image_fit_networks_of_several(
    choices: dict[str, Any], tmp_path: Path
) -> None:
    one = build_backbone(spec(**choices)).eval()
    save_file(one.features.state_dict(), path := tmp_path / "one.safetensors")
    several = started(path, **choices, modality="BOTH", prior=True)
    volume, mirrored = torch.randn(2, 1, 1, 20, 33, 24)
    with torch.inference_mode():
        expected = one(torch.cat([volume, mirrored], dim=1))
        seen = several(torch.cat([volume, volume, volume, mirrored, mirrored, mirrored], dim=1))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("axes", ["SPL", "RAS", "LPS", "AIR"])
def test_kernels_are_turned_to_our_axes(axes: str, monais: nn.Module, checkpoint: Path, tmp_path: Path) -> None:
    """The network sees a head on our axes as it saw the same head on its own; sides are odd, so strides agree."""
    (path := tmp_path / "weights.safetensors").write_bytes(convert(checkpoint, TEN, axes).data)

    def theirs(maps: Tensor) -> Tensor:
        """From our axes to theirs, voxel by voxel, as the letters say."""
        order = [next(i for i, own in enumerate(("LR", "PA", "IS")) if letter in own) for letter in axes]
        return maps.permute(0, 1, *(2 + i for i in order)).flip([2 + i for i, a in enumerate(axes) if a in "LPI"])

    torch.manual_seed(1)
    volume = torch.randn(1, 1, 33, 65, 33)
    with torch.inference_mode():
        expected, seen = monais(theirs(volume))[-1], torch.relu(started(path)(volume))
        torch.testing.assert_close(theirs(seen), expected, rtol=1e-4, atol=1e-4 * float(expected.max()))
        if axes != "RAS":
            assert (seen - monais(volume)[-1]).abs().max() > 0.01 * expected.max(), "kernels as they are see another"


def test_there_are_forty_eight_ways_to_lay_axes() -> None:
    assert len({*AXES}) == 48


def test_every_tensor_of_a_whole_segmentation_network_is_accounted_for() -> None:
    with torch.device("meta"):
        network = SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4), in_channels=1, out_channels=2)
    file = shapes(network)
    matched = match(spec("segresnet", modality="BOTH"), file, "file")
    own = {name for name in file if name.startswith("encoder.")}
    assert {*matched.taken.values()} == own
    assert {*matched.unused} == {*file} - own != set()
    assert matched.counters == ()
    assert matched.repeated == {"conv_init.weight": (1, 2)}
    assert len(matched.lines) == 3


def test_counters_that_old_files_lack_stay_at_zero(monais: nn.Module) -> None:
    file = {name: shape for name, shape in shapes(monais).items() if "num_batches" not in name}
    matched = match(spec(), file, "file")
    assert {*matched.counters} == {*shapes(monais)} - {*file}
    assert {*matched.taken} == {*file}


def of_monai(depth: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes(ResNetFeatures(f"resnet{depth}", pretrained=False, in_channels=1))


@pytest.mark.parametrize(
    ("backbone", "depth", "first"),
    [
        (TEN, 18, "layer2.0.downsample.0.weight is missing"),
        ("medicalnet-resnet18", 10, "layer1.1.conv1.weight is missing"),
        ("medicalnet-resnet18", 34, "layer1.2.conv1.weight is not in the network"),
        ("medicalnet-resnet34", 50, "layer1.0.conv1.weight is 64×64×1×1×1, not 64×64×3×3×3"),
        ("segresnet", 10, "conv_init.weight is missing"),
    ],
)
def test_a_wrong_file_is_refused_by_the_first_tensors_that_do_not_fit(
    backbone: BackboneName, depth: int, first: str
) -> None:
    with pytest.raises(RlvoError, match=f"the weights do not fit {backbone}: {first}, .*, and [0-9]+ more"):
        match(spec(backbone), of_monai(depth), "file")


def test_weights_of_batch_norm_do_not_start_a_network_with_group_norm() -> None:
    with pytest.raises(RlvoError, match=r"bn1.running_mean is not in the network.*with model.norm: batch"):
        match(spec(norm="group"), of_monai(10), "file")


def test_a_kernel_of_several_channels_is_not_spread_over_others() -> None:
    with torch.device("meta"):
        file = shapes(ResNetFeatures("resnet10", pretrained=False, in_channels=2))
    with pytest.raises(RlvoError, match=r"conv1\.weight is 64×2×7×7×7, not 64×3×7×7×7"):
        match(spec(modality="BOTH", prior=True), file, "file")
    assert match(spec(modality="BOTH"), file, "file").repeated == {}


def test_another_file_and_one_with_infinite_numbers_are_refused(converted: Path, tmp_path: Path) -> None:
    model = spec(pretrained={"sha256": "0" * 64})
    with pytest.raises(RlvoError, match="the file's SHA-256 is"):
        start_from(build_backbone(model), model, converted)
    tensors = load_file(converted)
    tensors["layer2.0.bn1.weight"][3] = torch.nan
    save_file(tensors, damaged := tmp_path / "damaged.safetensors")
    with pytest.raises(RlvoError, match=r"layer2\.0\.bn1\.weight holds values that are not finite"):
        started(damaged)
    with pytest.raises(RlvoError, match=r"layer2\.0\.bn1\.weight holds values that are not finite"):
        convert(damaged, TEN)


class Planted:
    """An object that a pickle would make by writing a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_is_pickled_is_not_made(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    torch.save({"state_dict": {"conv1.weight": torch.ones(1)}, "more": Planted(planted)}, tmp_path / "weights.pth")
    message = refused("convert-weights", tmp_path / "weights.pth", "-o", tmp_path / "out", "--backbone", TEN)
    assert "it is not read, as that could run code" in message
    assert not planted.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02."])
def test_what_is_no_checkpoint_is_refused_in_a_line(content: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(RlvoError):
        convert(path, TEN)


def test_a_checkpoint_of_nothing_but_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "best": [torch.ones(1)]}, path := tmp_path / "weights.pth")
    with pytest.raises(RlvoError, match="holds no tensors by name"):
        convert(path, TEN)


def test_a_converted_file_still_tells_which_scans_its_network_has_seen(converted: Path, tmp_path: Path) -> None:
    scans = frozenset({"0123456789abcdef", "fedcba9876543210"})
    (pretrained := tmp_path / "pretrained.safetensors").write_bytes(
        safetensors.torch.save(load_file(converted), seen_metadata(scans))
    )
    again = tmp_path / "again.safetensors"
    run("convert-weights", pretrained, "--out", again, "--backbone", TEN, "--axes", "SPL")
    assert seen_scans(again) == seen_scans(pretrained) == scans
    assert seen_scans(converted) == frozenset()


def test_the_command_reports_and_prints_what_a_study_needs(checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = run("convert-weights", checkpoint, "--out", out, "--backbone", TEN)
    assert out.read_bytes() == converted.read_bytes()
    assert f"    sha256: {file_sha256(out)}" in done.stderr + done.stdout
    found = json.loads(run("convert-weights", out, "--out", tmp_path / "again", "--backbone", TEN, "--json").stdout)
    assert found["sha256"] == file_sha256(out), "what is converted already stays"
    assert (found["unused"], found["counters"]) == ([], [])
    assert "that is the checkpoint itself" in refused("convert-weights", out, "-o", out, "--backbone", TEN)
    again = ("-o", tmp_path / "more", "--backbone", TEN)
    assert "names no axes" in refused("convert-weights", out, "--axes", "RAL", *again)
