"""A study whose networks start from weights that others trained, to the registered model, once their file is gone."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from monai.networks.nets.resnet import ResNetFeatures
from safetensors.torch import load_file
from support.commands import run
from support.small_study import MakeStudy
from support.tiny_study import STUDY

import rlvo
from rlvo.cohort.splits import read_split
from rlvo.config.loading import load_study
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder
from rlvo.study.pretrained import check_pretrained
from rlvo.training.fit import fit
from rlvo.training.records import BEST_WEIGHTS, read_record

BACKBONE = "medicalnet-resnet10"
PLACE = "planted-weights"
"""In the path of the file, which nothing may tell."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """MONAI's network with random weights, saved and converted; and the SHA-256 that the command prints."""
    folder = tmp_path_factory.mktemp(PLACE)
    torch.manual_seed(7)
    network = ResNetFeatures("resnet10", pretrained=False, in_channels=1)
    torch.save(network.state_dict(), folder / "resnet_10.pth")
    out = folder / "resnet10.safetensors"
    done = run("convert-weights", folder / "resnet_10.pth", "-o", out, "--backbone", BACKBONE, "--json")
    return out, json.loads(done.stdout)["sha256"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_it_is_searched_extended_combined_and_registered_after_the_file_is_gone(
    weights: tuple[Path, str], small_cohort: Path, small_work: Workdir, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file, sha256 = weights
    home = tmp_path_factory.mktemp("study")
    original = home / PLACE / "weights.safetensors"
    original.parent.mkdir()
    original.write_bytes(file.read_bytes())
    content = STUDY.model_dump(mode="json", include={"grid", "training", "folds"}) | {
        "name": "pretrained",
        "cohort": {"predictors": ["age", "sex", "nihss", "occlusion_side"]},
        "model": {
            "backbone": BACKBONE,
            "fusion": "none",
            "pretrained": {"weights": f"{PLACE}/weights.safetensors", "sha256": sha256},
        },
        "space": {"enumerate": {"model.modality": ["NCCT", "BOTH"]}},
        "search": {"configurations": 1},
    }
    (home / "study.yaml").write_text(json.dumps(content))

    config = load_study(home / "study.yaml")
    study = rlvo.Study(config, cohort=small_cohort, workdir=small_work.path)
    assert any("fit medicalnet-resnet10" in note for note in study.plan().notes)
    first = study.search()
    assert first.is_complete
    original.unlink()
    assert study.search(configurations=2).is_complete

    trials = study.trials
    assert set(trials["state"]) == {"finished"}
    assert trials["model.modality"].value_counts().to_dict() == {"NCCT": 2, "BOTH": 2}
    assert {*trials["model.pretrained.sha256"]} == {sha256}
    folder = StudyFolder(small_work.study("pretrained"))
    record = read_record(next(folder.path.glob("trials/*/fold-0")))
    assert record is not None
    assert record.configuration.model.pretrained.sha256 == sha256

    study.ensemble()
    version = MlflowClient(small_work.tracking_uri()).get_model_version_by_alias("rlvo-ensemble", "champion")
    assert f"- image networks started from pretrained weights, SHA-256 {sha256}\n" in str(version.description)
    small_work.pretrained(sha256).unlink()
    table = pd.read_csv(small_cohort).set_index("patient_id").loc[list(read_split(folder.split).development)]
    model = rlvo.load_model("rlvo-ensemble", workdir=small_work.path)
    answers = model.predict(table.drop(columns="rlvo").reset_index(), folder=small_cohort.parent)
    assert answers["patient_id"].tolist() == table.index.tolist()
    assert answers["rlvo"].isin([0, 1]).all()

    told = [path for path in small_work.path.rglob("*") if path.is_file() and PLACE.encode() in path.read_bytes()]
    assert told == []


def test_a_trial_starts_from_the_weights_and_its_restart_too(
    weights: tuple[Path, str], make_small: MakeStudy, open_small: object, small_work: Workdir
) -> None:
    """At a learning rate of next to nothing, the kept weights are those of the file."""
    file, sha256 = weights
    model = {"backbone": BACKBONE, "modality": "BOTH", "fusion": "none", "pretrained": {"sha256": sha256}}
    training = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-12, "restarts": 1}
    config = make_small("starts", model=model, training=training)
    inputs = open_small(config)  # type: ignore[operator]
    configuration, folder = config.configuration({}), StudyFolder(small_work.study("starts"))
    trial, identity = folder.trial(configuration.key, 0), inputs.identity(configuration.key, 0)
    with pytest.raises(RlvoError, match="there is no such file"):
        fit(configuration, inputs.fold_data(0), trial, identity, seed=0, pretrained=small_work.path / "none")
    record = fit(configuration, inputs.fold_data(0), trial, identity, seed=0, pretrained=file)
    assert record is not None
    kept, own = load_file(trial / BEST_WEIGHTS), load_file(file)
    for name, tensor in own.items():
        found = kept[f"backbone.features.{name}"]
        if name == "conv1.weight":
            torch.testing.assert_close(found, (tensor / 2).expand_as(found), rtol=0, atol=1e-9)
        elif "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-9)


def test_what_cannot_be_started_from_is_said_before_anything_is_prepared(
    weights: tuple[Path, str], make_small: MakeStudy, tmp_path: Path
) -> None:
    file, sha256 = weights
    work = Workdir.at(tmp_path / "work")

    def checked(**model: object) -> tuple[str, ...]:
        start = {"backbone": BACKBONE, "modality": "NCCT", "fusion": "none"}
        return check_pretrained(make_small(model=start | model), work, keep=True)

    assert checked() == ()
    with pytest.raises(RlvoError, match="has no sound copy of the pretrained weights"):
        checked(pretrained={"sha256": sha256})
    with pytest.raises(RlvoError, match="the file's SHA-256 is"):
        checked(pretrained={"weights": file, "sha256": "0" * 64})
    with pytest.raises(RlvoError, match="do not fit medicalnet-resnet18"):
        checked(backbone="medicalnet-resnet18", pretrained={"weights": file, "sha256": sha256})
    assert not (work.path / "pretrained").exists()
    lines = checked(modality="BOTH", pretrained={"weights": file, "sha256": sha256})
    assert lines[1] == "conv1.weight: 1 channel became 2, each with 1/2 of its kernel"
    assert checked(modality="BOTH", pretrained={"sha256": sha256}) == lines, "the copy will do"
    work.pretrained(sha256).write_bytes(b"damaged")
    assert checked(pretrained={"weights": file, "sha256": sha256})
    assert work.pretrained(sha256).read_bytes() == file.read_bytes()
