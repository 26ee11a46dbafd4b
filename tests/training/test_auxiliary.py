"""Heads that learn side, site and perfusion from the image: what they are taught, and that nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from support.networks import narrow
from torch import nn

from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.variables import VARIABLES
from rlvo.config.base import content_hash
from rlvo.config.model import AUXILIARY, Configuration, auxiliary_targets
from rlvo.config.study import StudyConfig
from rlvo.config.training import TrainingConfig
from rlvo.errors import RlvoError
from rlvo.models.auxiliary import AuxiliaryHeads
from rlvo.models.classifier import Classifier
from rlvo.study.ablation import reduced_study
from rlvo.training.dataset import FoldData, Volumes
from rlvo.training.epoch import build_optimizer, build_schedule, train_epoch, validate
from rlvo.training.fit import fit
from rlvo.training.records import CompletionRecord, TrialIdentity, read_epochs

PREDICTORS = ("age", "occlusion_side", "occlusion_site", "tmax_gt6_ml")
TARGETS = ("occlusion_side", "occlusion_site", "tmax_gt6_ml")


@pytest.fixture
def data(fold_data: FoldData) -> FoldData:
    """The fold with a side and a volume that the images show, a site that they don't, and cells that are missing."""
    random, ids = np.random.default_rng(4), [*fold_data.training.ids, *fold_data.validation.ids]
    n = len(ids)
    is_right, volume = random.permutation(n) % 2 == 1, random.uniform(0, 200, n)
    for i, folder in enumerate([*fold_data.training.volumes, *fold_data.validation.volumes]):
        for name in ("ncct", "cta"):
            image = random.normal(50, 5, (16, 14, 12))
            image[8:, :5] += 60 * is_right[i]
            image[:8, :5] += 60 * (not is_right[i])
            image[:, 8:] += 0.3 * volume[i]
            np.save(folder / f"{name}.npy", image.astype(np.float16))
    table = pd.DataFrame(
        {
            "age": random.normal(70, 10, n),
            "occlusion_side": np.where(is_right, "right", "left"),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "tmax_gt6_ml": volume,
        },
        index=ids,
    )
    table.loc[ids[::5], "tmax_gt6_ml"] = np.nan
    table.loc[ids[1::7], "occlusion_side"] = None
    encoder = fit_encoder(table[: len(fold_data.training)], PREDICTORS, missing_flags=True)
    training, validation = (
        replace(
            each,
            tabular=encoder.transform(table.loc[list(each.ids)]),
            measured=encoder.measured(table.loc[list(each.ids)]),
        )
        for each in (fold_data.training, fold_data.validation)
    )
    return replace(fold_data, training=training, validation=validation, encoder=encoder)


def configured(auxiliary: float = 1.0, fusion: str = "daft", side: str = "as_is", **training: object) -> Configuration:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "auxiliary": auxiliary, **training}
    model = narrow("resnet18", fusion=fusion, side=side)
    return Configuration(model=model, training=TrainingConfig.model_validate(settings))


def run(
    configuration: Configuration, data: FoldData, folder: Path, until: int | None = None
) -> CompletionRecord | None:
    identity = TrialIdentity(study="t", configuration="same", fold=0, split_hash="a", data_hash="b")
    return fit(configuration, data, folder, identity, seed=1, device="cpu", until=until)


def heads_of(data: FoldData, channels: int) -> AuxiliaryHeads:
    groups, names = data.encoder.feature_groups, data.encoder.feature_names
    torch.manual_seed(0)
    return AuxiliaryHeads(
        channels, {name: [i for i in groups[name] if not names[i].endswith("=missing")] for name in TARGETS}
    )


def test_the_loss_is_the_mean_cross_entropy_of_measured_values(data: FoldData) -> None:
    """By scikit-learn, over those whose cell is filled; a volume is a soft label."""
    patients = data.training
    classifier = Classifier(narrow("resnet18", fusion="none"), patients.tabular.shape[1])
    heads = heads_of(data, classifier.backbone.out_channels)
    classifier.standardise_with([60.0, 60.0], [30.0, 30.0])
    nn.init.normal_(heads.linear.weight)
    found, _ = validate(classifier, Volumes(patients, ("ncct", "cta")), patients, 4, 1.0, heads)
    with torch.no_grad():
        features = classifier.eval().features(Volumes(patients, ("ncct", "cta"))[:])
        said = heads(classifier.pool(features)).sigmoid().double().numpy()
    names = [data.encoder.feature_names[i] for i in heads.columns.tolist()]
    assert names == ["occlusion_side=left", "occlusion_side=right", "occlusion_site=TICA", "occlusion_site=M1",
                     "occlusion_site=M2", "tmax_gt6_ml"]  # fmt: skip
    own: dict[str, list[float]] = {}
    for column, (name, at) in enumerate(zip(names, heads.columns.tolist(), strict=True)):
        assert patients.measured is not None
        known = patients.measured[:, at]
        truth, p = patients.tabular[known, at].astype(float), said[known, column]
        assert len(truth) == {"occlusion_site": 23, "occlusion_side": 19, "tmax_gt6_ml": 18}[name.partition("=")[0]]
        both = np.concatenate([np.ones(len(p)), np.zeros(len(p))])
        loss = log_loss(both, np.concatenate([p, p]), sample_weight=np.concatenate([truth, 1 - truth]))
        own.setdefault(name.partition("=")[0], []).append(loss)
    for target, losses in own.items():
        assert found[f"val/auxiliary/{target}"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_imputed_values_teach_nothing(data: FoldData) -> None:
    """Whatever an imputed cell holds, the weights are the same to the bit; a measured one changes them."""

    def weights(data: FoldData) -> list[torch.Tensor]:
        torch.manual_seed(0)
        classifier = Classifier(narrow("resnet18", fusion="none"), data.training.tabular.shape[1])
        heads, settings = heads_of(data, classifier.backbone.out_channels), configured().training
        optimizer = build_optimizer(nn.ModuleList([classifier, heads]), settings)
        schedule = build_schedule(optimizer, settings, len(data.training))
        volumes = Volumes(data.training, ("ncct", "cta"))
        train_epoch(classifier, volumes, data, settings, optimizer, schedule, 1.0, heads=heads)
        return [parameter.detach().clone() for parameter in (*classifier.parameters(), *heads.parameters())]

    column = data.encoder.feature_names.index("tmax_gt6_ml")
    measured = data.training.measured
    assert measured is not None

    def with_cell(row: int) -> FoldData:
        tabular = data.training.tabular.copy()
        tabular[row, column] = 1 - tabular[row, column] / 2
        return replace(data, training=replace(data.training, tabular=tabular))

    imputed, known = int(np.argmin(measured[:, column])), int(np.argmax(measured[:, column]))
    before, same, other = (weights(each) for each in (data, with_cell(imputed), with_cell(known)))
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, other, strict=True))


def test_the_gradient_of_parts_is_that_of_the_batch(data: FoldData) -> None:
    found = []
    for micro_batch in (None, 1):
        settings = configured(micro_batch=micro_batch, auxiliary=2.0).training
        torch.manual_seed(0)
        classifier = Classifier(narrow("resnet18", fusion="daft"), data.training.tabular.shape[1])
        for name, layer in list(classifier.named_modules()):
            if isinstance(layer, nn.BatchNorm3d):
                classifier.set_submodule(name, nn.GroupNorm(1, layer.num_features))
        classifier.standardise_with([60.0, 60.0], [30.0, 30.0])
        heads = heads_of(data, classifier.backbone.out_channels)
        both = nn.ModuleList([classifier, heads])
        optimizer = torch.optim.SGD(both.parameters(), lr=1e-2)
        schedule = build_schedule(optimizer, settings, len(data.training))
        volumes = Volumes(data.training, ("ncct", "cta"))
        losses = train_epoch(classifier, volumes, data, settings, optimizer, schedule, 1.0, heads=heads)
        found.append((losses, nn.utils.parameters_to_vector(both.parameters()).detach()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-5)


def test_the_heads_learn_what_the_image_shows_and_leave_nothing_in_the_model(data: FoldData, tmp_path: Path) -> None:
    record = run(configured(4.0, epochs=20, batch_size=8, learning_rate=5e-3, fusion="none"), data, tmp_path / "a")
    run(configured(0.0, epochs=1, fusion="none"), data, tmp_path / "b")
    first, *_, last = read_epochs(tmp_path / "a")
    for half in ("train", "val"):
        assert {f"{half}/auxiliary/{name}" for name in TARGETS} <= last.keys()
    assert last["val/auxiliary/occlusion_side"] < 0.45 < 0.6 < first["val/auxiliary/occlusion_side"]
    assert record is not None
    assert record.best_epoch == 1 + int(np.argmin([line["val/loss"] for line in read_epochs(tmp_path / "a")]))
    one, other = (load_file(tmp_path / name / "best" / "model.safetensors") for name in "ab")
    assert list(one) == list(other)  # names of weights
    assert not any("auxiliary" in name for line in read_epochs(tmp_path / "b") for name in line)


def test_a_trial_with_heads_continues_bit_identically(data: FoldData, tmp_path: Path) -> None:
    configuration = configured(epochs=3, schedule="one_cycle", clip_norm=1.0)
    run(configuration, data, tmp_path / "whole")
    run(configuration, data, tmp_path / "parts", until=1)
    run(configuration, data, tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_epochs(tmp_path / "whole") == read_epochs(tmp_path / "parts")


def test_the_side_is_no_target_of_a_head_that_is_turned_to_it(data: FoldData, tmp_path: Path) -> None:
    run(configured(side="halves", epochs=1), data, tmp_path)
    (line,) = read_epochs(tmp_path)
    assert {name for name in line if "auxiliary" in name} == {
        f"{half}/auxiliary/{name}" for half in ("train", "val") for name in TARGETS[1:]
    }


def test_a_study_without_anything_to_learn_is_refused() -> None:
    study = {"name": "s", "training": {"auxiliary": 0.3}}
    with pytest.raises(
        ValueError, match=r"training\.auxiliary: cohort\.predictors has no target; targets are occlusion"
    ):
        StudyConfig.model_validate({**study, "cohort": {"predictors": ["age", "hir"]}})
    turned = {**study, "cohort": {"predictors": ["age", "occlusion_side"]}, "model": {"side": "halves"}}
    with pytest.raises(ValueError, match=r"with model\.side: halves the side is no target"):
        StudyConfig.model_validate(turned)
    sound = StudyConfig.model_validate({**study, "cohort": {"predictors": ["age", "occlusion_site"]}})
    with pytest.raises(RlvoError, match="auxiliary heads"):
        reduced_study(sound, "s-b", ["occlusion_site"], [sound.configuration({})])


def test_no_target_is_an_outcome() -> None:
    assert {VARIABLES[name].role for name in AUXILIARY} == {"predictor"}
    assert auxiliary_targets([*AUXILIARY, "rlvo", "etici", "nihss"], "as_is") == AUXILIARY
    assert auxiliary_targets(AUXILIARY, "as_is", "vessels") == AUXILIARY
    assert auxiliary_targets(AUXILIARY, "as_is", "occlusion") == AUXILIARY[2:]


def test_configurations_of_before_keep_their_keys() -> None:
    plain = Configuration(model=narrow())
    content = plain.model_dump(mode="json")
    assert "auxiliary" not in content["training"]
    assert plain.key == content_hash(content)[:12]
    assert configured(0.5).key != configured(0.0).key
