"""Patients who lose a volume or their CT perfusion in training, and a network asked without a volume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.networks import narrow

from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.variables import CTP
from rlvo.config.model import Configuration
from rlvo.config.training import TrainingConfig
from rlvo.evaluation.predictions import read_predictions
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import FoldData, Volumes
from rlvo.training.fit import fit
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.missing import Lost, NoPerfusion, WithoutChannels, blank_volumes
from rlvo.training.records import BEST_WEIGHTS, PREDICTIONS, TrialIdentity, member_key

CHANNELS = ("ncct", "cta", "vessels")
PERFUSION = ("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")


def configured(modality: str = "BOTH", fusion: str = "daft", **training: Any) -> Configuration:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **training}
    model = narrow("resnet18", fusion=fusion, modality=modality)
    return Configuration.model_validate({"model": model, "training": settings})


def identity_of(configuration: Configuration) -> TrialIdentity:
    return TrialIdentity(study="s", configuration=configuration.key, fold=0, split_hash="a", data_hash="b")


def test_each_volume_is_lost_as_often_as_asked_and_never_both() -> None:
    torch.manual_seed(0)
    lost = Lost.draw(TrainingConfig(modality_dropout=0.3, perfusion_dropout=0.2), CHANNELS, 20_000)
    assert lost.volumes is not None
    assert lost.perfusion is not None
    ncct, cta, vessels = lost.volumes.T
    assert ncct.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert cta.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert not (ncct & cta).any()
    assert torch.equal(cta, vessels)  # the mask is made from the CTA
    assert lost.perfusion.float().mean().item() == pytest.approx(0.2, abs=0.01)
    parts = list(lost.split([15_000, 5_000]))
    assert torch.equal(torch.cat([part.volumes for part in parts if part.volumes is not None]), lost.volumes)
    assert torch.equal(torch.cat([part.perfusion for part in parts if part.perfusion is not None]), lost.perfusion)


def test_nothing_is_drawn_by_default() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    lost = Lost.draw(TrainingConfig(), CHANNELS, 8)
    assert lost == Lost(None, None)
    assert list(lost.split([5, 3])) == [lost, lost]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("extra", [{}, {"contrast": "mirror_difference"}, {"side": "halves"}], ids=str)
def test_a_lost_volume_is_zero_for_the_network(extra: dict[str, str]) -> None:
    model = Configuration.model_validate({"model": narrow("resnet18", fusion="none", prior=True, **extra)}).model
    classifier = Classifier(model, 2)
    classifier.standardise_with([33.3, 91.7, 0], [12.1, 40.3, 1])
    classifier.symmetry.read_from(("occlusion_side=left", "occlusion_side=right"))
    volumes = torch.randn(2, 3, 12, 12, 12) * 20 + 40
    lost = torch.tensor([[True, False, False], [False, True, True]])
    blanked = blank_volumes(volumes.half(), classifier.channel_mean, lost)
    shown = classifier.symmetry(classifier.standardise(blanked), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    channels = torch.arange(shown.shape[1]) % 3
    for patient in range(2):
        for channel, seen in zip(channels.tolist(), shown[patient], strict=True):
            assert (seen == 0).all() == bool(lost[patient, channel])


@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("imputation", ["ratio", "median"])
def test_lost_perfusion_is_encoded_as_for_a_patient_without_any(flags: bool, imputation: Any) -> None:
    rng = np.random.default_rng(1)
    volumes = np.sort(rng.uniform(1, 200, (30, 4)), axis=1)[:, [0, 3, 2, 1]]
    table = pd.DataFrame(volumes, columns=list(PERFUSION)).assign(age=rng.normal(70, 9, 30), nihss=12.0)
    predictors = ("age", *PERFUSION, "hir", "nihss", "tmax4_tmax6_ratio")
    encoder = fit_encoder(table[:20], predictors, missing_flags=flags, imputation=imputation)
    lost = torch.arange(30) % 3 == 0
    blanked = NoPerfusion.of(encoder).blank(torch.from_numpy(encoder.transform(table)), lost)
    missing = table.assign(**{name: table[name].mask(lost.numpy()) for name in PERFUSION})
    np.testing.assert_array_equal(blanked.numpy(), encoder.transform(missing))
    assert set(CTP) & set(predictors) == {*PERFUSION, "hir", "tmax4_tmax6_ratio"}


def test_a_network_loses_only_what_it_sees() -> None:
    losses = {"modality_dropout": 0.5, "perfusion_dropout": 0.5}
    plain = {(m, f): configured(m, f).key for m in ("NCCT", "BOTH") for f in ("none", "daft")}
    lossy = {(m, f): configured(m, f, **losses) for m in ("NCCT", "BOTH") for f in ("none", "daft")}
    assert lossy["NCCT", "none"].key == plain["NCCT", "none"]
    # The clinical log-odds of `offset` are fitted beforehand, and would keep what the network loses.
    assert configured("NCCT", "offset", perfusion_dropout=0.5).key == configured("NCCT", "offset").key
    assert lossy["NCCT", "daft"].key == configured("NCCT", "daft", perfusion_dropout=0.5).key != plain["NCCT", "daft"]
    assert lossy["BOTH", "none"].key == configured("BOTH", "none", modality_dropout=0.5).key != plain["BOTH", "none"]
    assert configured("BOTH", **dict.fromkeys(losses, 0.0)).key == plain["BOTH", "daft"]
    assert lossy["BOTH", "none"].answers_without == (("ncct",), ("cta",))
    assert lossy["NCCT", "daft"].answers_without == configured("BOTH").answers_without == ()


def test_predictions_say_what_the_network_answers_without_each_volume(fold_data: FoldData, tmp_path: Path) -> None:
    configuration = configured(modality_dropout=0.5, perfusion_dropout=0.5)
    fit(configuration, fold_data, tmp_path / "a", identity_of(configuration), seed=1, device="cpu", threads=1)
    found = read_predictions(tmp_path / "a" / PREDICTIONS).set_index(["member", "patient"])["probability"]
    best = load_classifier(tmp_path / "a" / BEST_WEIGHTS, configuration.model, fold_data.training.tabular.shape[1])
    patients = fold_data.validation
    seen = {(): Volumes(patients, ("ncct", "cta"))}
    for name in ("ncct", "cta"):  # the lost volume is everywhere what it is on average
        folder = tmp_path / f"no-{name}"
        level = best.channel_mean[("ncct", "cta").index(name)].item()
        seen[(name,)] = WithoutChannels(seen[()], best.channel_mean, (name,))  # type: ignore[assignment]
        altered = []
        for path in patients.volumes:
            (folder / path.name).mkdir(parents=True)
            for each in ("ncct", "cta"):
                volume = np.load(path / f"{each}.npy")
                np.save(folder / path.name / f"{each}.npy", np.full_like(volume, level) if each == name else volume)
            altered.append(folder / path.name)
        near = predict_probabilities(
            best, Volumes(replace(patients, volumes=tuple(altered)), ("ncct", "cta")), patients.tabular, 4
        )
        np.testing.assert_allclose(found[member_key(configuration, 0, (name,))][list(patients.ids)], near, atol=1e-3)
    for absent, volumes in seen.items():
        said = predict_probabilities(best, volumes, patients.tabular, 4)
        np.testing.assert_array_equal(found[member_key(configuration, 0, absent)][list(patients.ids)], said)
    full, *others = (found[member_key(configuration, 0, absent)].to_numpy() for absent in seen)
    assert all(np.abs(other - full).max() > 1e-4 for other in others)


def test_losses_change_training_reproducibly_and_through_an_interruption(fold_data: FoldData, tmp_path: Path) -> None:
    def weights(name: str, until: int | None = None, **training: Any) -> bytes:
        configuration = configured(**training)
        identity = TrialIdentity(study="s", configuration="same", fold=0, split_hash="a", data_hash="b")
        fit(configuration, fold_data, tmp_path / name, identity, seed=1, device="cpu", threads=1, until=until)
        return (tmp_path / name / BEST_WEIGHTS).read_bytes()

    whole = weights("whole", modality_dropout=0.5, perfusion_dropout=0.5)
    assert weights("again", modality_dropout=0.5, perfusion_dropout=0.5) == whole
    weights("stopped", until=1, modality_dropout=0.5, perfusion_dropout=0.5)
    assert weights("stopped", modality_dropout=0.5, perfusion_dropout=0.5) == whole
    assert weights("none") != whole
