import pytest
import torch
from monai.networks.nets.densenet import DenseNet
from support.networks import BACKBONES, enliven, narrow

from rlvo.config.model import BackboneName, DenseNetOptions, FusionName, Modality, ModelConfig
from rlvo.models.classifier import Classifier


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("fusion", ["none", "concat", "film", "daft", "offset"])
def test_every_weight_takes_part(backbone: BackboneName, fusion: FusionName) -> None:
    classifier = enliven(Classifier(narrow(backbone, fusion=fusion, prior=True), 5))
    logits = classifier(torch.randn(4, 3, 40, 36, 32), torch.rand(4, 5))
    assert logits.shape == (4,)
    logits.square().sum().backward()
    without = [name for name, weight in classifier.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("fusion", "uses_table"), [("none", False), ("concat", True), ("film", True), ("daft", True), ("offset", True)]
)
def test_the_table_counts_if_there_is_a_fusion(fusion: FusionName, uses_table: bool) -> None:
    classifier = enliven(Classifier(narrow(fusion=fusion), 5)).eval()
    volume = torch.randn(2, 2, 32, 24, 20)
    tables = torch.rand(2, 2, 5)
    assert (not torch.equal(classifier(volume, tables[0]), classifier(volume, tables[1]))) == uses_table
    if not uses_table:
        classifier(volume, None)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fusion_sits_before_the_last_activation(backbone: BackboneName) -> None:
    """The map has negative values (so it is taken before the activation), which `classify` then activates."""
    classifier = Classifier(narrow(backbone, fusion="none"), 0).eval()
    volume = torch.randn(2, 2, 40, 36, 32)
    features = classifier.features(volume)
    assert (features < 0).any()
    activated = torch.nn.functional.silu(features) if backbone == "efficientnet-b0" else features.clamp(min=0)
    expected = classifier.head(activated.mean(dim=(2, 3, 4)))[:, 0]
    torch.testing.assert_close(classifier(volume), expected)


def test_densenet_equals_monais_network_end_to_end() -> None:
    reference = DenseNet(3, 2, 1, init_features=8, growth_rate=4, block_config=(2, 2)).eval()
    config = ModelConfig(
        backbone="densenet121",
        fusion="none",
        densenet=DenseNetOptions(init_features=8, growth_rate=4, block_config=(2, 2)),
    )
    classifier = Classifier(config, 0).eval()
    classifier.backbone.features.load_state_dict(reference.features.state_dict())
    classifier.head.load_state_dict(reference.class_layers.out.state_dict())
    volume = torch.randn(2, 2, 32, 24, 20)
    torch.testing.assert_close(classifier(volume), reference(volume.asinh())[:, 0])
    plain = Classifier(config.model_copy(update={"compress_input": False}), 0).eval()
    plain.load_state_dict(classifier.state_dict())
    torch.testing.assert_close(plain(volume), reference(volume)[:, 0])


def test_input_is_standardised_by_the_buffers() -> None:
    classifier = Classifier(narrow(fusion="none", prior=True), 0).eval()
    volume = torch.randn(2, 3, 32, 24, 20)
    expected = classifier(volume)
    mean, std = [40.0, 90.0, 0.0], [8.0, 55.0, 1.0]
    classifier.standardise_with(mean, std)
    raw = volume * torch.tensor(std)[:, None, None, None] + torch.tensor(mean)[:, None, None, None]
    torch.testing.assert_close(classifier(raw), expected, rtol=0, atol=1e-4)
    assert {"channel_mean", "channel_std"} <= set(classifier.state_dict())


def test_what_lies_far_from_brain_tissue_does_not_hide_it() -> None:
    """A tissue difference of half an SD must survive the stem's batch norm beside skull at 40 SDs."""
    classifier = Classifier(narrow(fusion="none", modality="CTA"), 0).train()
    volume = torch.zeros(2, 1, 32, 24, 20)
    volume[:, :, :3] = 40
    volume[1, :, 12:] = 0.5
    stem = classifier.backbone.features[:2]
    normed = []
    stem[1].register_forward_hook(lambda *call: normed.append(call[-1].detach().clone()))
    classifier(volume)
    tissue = normed[0][:, :, 8:14, 3:9, 3:7].mean(dim=(2, 3, 4))
    assert (tissue[1] - tissue[0]).abs().max() > 0.2


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("modality", ["CTA", "BOTH"])
def test_stored_volumes_are_standardised_as_if_widened(modality: Modality, compress: bool) -> None:
    """To the bit, for every value that float16 can hold."""
    classifier = Classifier(narrow(modality=modality, compress_input=compress), 5)
    channels = len(classifier.channel_mean)
    classifier.standardise_with([33.3, 71.7][:channels], [9.1, 57.3][:channels])
    every = torch.arange(1 << 16).to(torch.int16).view(torch.float16)
    finite = every[every.isfinite()]
    volume = finite[torch.randint(len(finite), (2, channels, 64, 32, 32))]
    volume.flatten()[: len(finite)] = finite
    volume = volume.transpose(2, 3)  # not contiguous
    assert torch.equal(classifier.standardise(volume), classifier.standardise(volume.float()))
    classifier.standardise_with([0.0] * channels, [1.0] * channels)  # the values before are not kept
    assert torch.equal(classifier.standardise(volume), classifier.standardise(volume.float()))


def test_training_goes_on_after_stored_volumes_were_asked_about() -> None:
    """The standardised values are kept from then; made in inference mode, they must still serve training."""
    classifier = Classifier(narrow(fusion="none"), 0)
    classifier.standardise_with([30.5, 60.5], [9, 50])
    volume = (torch.randn(8, 2, 32, 24, 20) * 30).half()
    with torch.inference_mode():
        classifier.eval()(volume)
    classifier.train()(volume).sum().backward()
    assert all(weight.grad is not None for weight in classifier.parameters())
