"""`rlvo pretrain`, from a table without outcomes to a study that starts from the weights."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from support.commands import refused, run
from support.heads import head_on
from support.privacy import open_to_others
from support.small_study import MakeStudy
from support.tiny_study import GRID

import rlvo
from rlvo.config.workdir import Workdir
from rlvo.study.folder import StudyFolder
from rlvo.training.records import BEST_WEIGHTS, read_record
from rlvo.workflows.pretrain import network

STRANGERS = 12


@pytest.fixture(scope="module")
def unlabelled(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another hospital's table without outcomes: 12 strangers, one of them twice, and three patients of the study.

    Of these one has its id, one another id, and one another id and files of another format.
    """
    folder = tmp_path_factory.mktemp("STRANGE-hospital")
    rng, rows = np.random.default_rng(1), []
    for number in range(STRANGERS):
        row = {"patient_id": f"STRANGER-{number:03d}"}
        for role, sd in (("ncct", 4), ("cta", 10)):
            path = folder / f"{number}-{role}.nii.gz"
            hu = head_on(GRID) + rng.normal(0, sd, GRID.shape)
            nibabel.save(nibabel.Nifti1Image(hu.astype(np.float32), GRID.affine), path)
            row[role] = path.name
        rows.append(row)
    rows.append({**rows[3], "patient_id": "STRANGER-again"})
    theirs = small_cohort.parent
    known = ("PLANTED-001", "PLANTED-001", ".nii.gz"), ("PLANTED-002", "ALIAS-1", ".nii.gz")
    for patient, name, suffix in (*known, ("PLANTED-003", "ALIAS-2", ".nii")):
        row = {"patient_id": name}
        for role in ("ncct", "cta"):
            path = folder / f"{name}-{role}{suffix}"
            if suffix == ".nii":
                nibabel.save(nibabel.load(theirs / patient / f"{role}.nii.gz"), path)
            else:
                path.write_bytes((theirs / patient / f"{role}.nii.gz").read_bytes())
            row[role] = path.name
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "unlabelled.csv", index=False)
    return folder / "unlabelled.csv"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_a_study_starts_from_weights_that_have_seen_none_of_its_patients(
    unlabelled: Path, small_cohort: Path, small_work: Workdir, make_small: MakeStudy, open_small: object, tmp_path: Path
) -> None:
    open_small(make_small("earlier"))  # type: ignore[operator]
    content = make_small("starts", search={"configurations": 1, "concurrent_trials": 1}).model_dump(
        mode="json", exclude={"atlas"}
    )
    content["model"]["modality"] = "BOTH"
    study, out = tmp_path / "study.yaml", tmp_path / "encoder.safetensors"
    study.write_text(json.dumps(content))
    arguments = ("--workdir", small_work.path)
    command = ("pretrain", study, unlabelled, "-o", out, "--epochs", 3, *arguments)
    found = json.loads(run(*command, "--json").stdout)
    notes = "; ".join(found["notes"])
    assert "left out: 1 patients of study earlier" in notes
    assert "left out: 2 patients whose scans belong to a patient of a study, under another id" in notes
    assert "left out: 1 patients whose scans another row names too" in notes
    assert (found["patients"], found["held_back"], len(found["curve"])) == (STRANGERS - 2, 2, 3)
    first = out.read_bytes()
    retries = Path(found["picture"]).with_name("retries.json")
    retries.write_text('[{"epoch": 2, "micro_batch": 2}]')  # as if memory had run out
    again = rlvo.Study(study, workdir=small_work.path).pretrain(unlabelled, tmp_path / "again.safetensors", epochs=3)
    assert (tmp_path / "again.safetensors").read_bytes() == first, "what has ended is written again, not trained again"
    shortage = "out of memory: from epoch 2 on, at most 2 patients were computed at once"
    assert (again.sha256, list(again.notes)) == (found["sha256"], [*found["notes"], shortage])
    retries.unlink()

    client = MlflowClient(small_work.tracking_uri())
    [logged] = client.search_runs([client.get_experiment_by_name("starts-pretraining").experiment_id])  # type: ignore[union-attr]
    assert (logged.info.status, logged.data.params["sha256"]) == ("FINISHED", found["sha256"])
    curve = [metric.value for metric in client.get_metric_history(logged.info.run_id, "val/loss")]
    assert curve == [epoch["val/loss"] for epoch in found["curve"]]
    told = str(logged.data.to_dictionary()) + str(logged.info.run_name)
    assert not any(word in told for word in ("STRANGE", "PLANTED", "unlabelled", str(tmp_path)))
    assert not open_to_others(small_work.path / "pretraining", "STRANGER", "PLANTED", "unlabelled")
    assert Path(found["picture"]).stat().st_mode & 0o077 == 0

    content["model"]["pretrained"] = {"weights": str(out), "sha256": found["sha256"]}
    content["training"]["learning_rate"] = 1e-12
    study.write_text(json.dumps(content))
    shown = run("search", study, "--cohort", small_cohort, *arguments).stderr
    assert f"{found['tensors']} tensors" in shown
    assert "fit resnet18: all that it has" in shown
    trial = next(StudyFolder(small_work.study("starts")).path.glob("trials/*/fold-0"))
    record = read_record(trial)
    assert record is not None
    assert record.status == "finished"
    kept = load_file(trial / BEST_WEIGHTS)
    for name, tensor in load_file(out).items():
        if "running" not in name and "num_batches" not in name:
            assert np.allclose(kept[f"backbone.features.{name}"], tensor, rtol=0, atol=1e-9), name

    copy = small_work.pretrained(found["sha256"])
    copy.rename(copy.with_suffix(".away"))
    assert "what scans they saw is not known" in refused("ensemble", "starts", *arguments)
    copy.with_suffix(".away").rename(copy)
    run("ensemble", "starts", *arguments)
    out.unlink()
    copy.unlink()
    cells = pd.read_csv(small_cohort)
    for number in (4, 5):
        for role in ("ncct", "cta"):
            cells.loc[number, role] = str(unlabelled.parent / f"{number}-{role}.nii.gz")
    cells.loc[:, "vessels"] = None
    strangers = cells.assign(patient_id=[f"B-{number}" for number in range(len(cells))])
    strangers[["cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"]] *= 0.9
    strangers.to_csv(small_cohort.parent / "external.csv", index=False)
    message = refused("evaluate", "rlvo-ensemble", small_cohort.parent / "external.csv", *arguments)
    assert "pretrained on scans of 2 of these patients, say B-4" in message
    out.write_bytes(first)

    cells.to_csv(small_cohort.parent / "overlapping.csv", index=False)
    study.write_text(json.dumps({**content, "name": "overlaps"}))
    message = refused("search", study, "--cohort", small_cohort.parent / "overlapping.csv", *arguments)
    assert "the pretrained weights have seen scans of 2 of its patients" in message


def test_who_is_left_out_leaves_nobody(
    small_cohort: Path, small_work: Workdir, make_small: MakeStudy, tmp_path: Path
) -> None:
    """The study was not started, and names its table; its patients have other ids in the other table."""
    content = make_small("fresh", cohort={"table": str(small_cohort)}).model_dump(mode="json", exclude={"atlas"})
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(content))
    renamed = pd.read_csv(small_cohort)[["patient_id", "ncct", "cta"]]
    renamed["patient_id"] = [f"ALIAS-{number}" for number in range(len(renamed))]
    renamed.to_csv(table := small_cohort.parent / "renamed.csv", index=False)
    out = ("-o", tmp_path / "encoder.safetensors", "--workdir", small_work.path)
    message = refused("pretrain", study, table, *out)
    assert "no patients are left to learn from" in message
    assert not (tmp_path / "encoder.safetensors").exists()
    assert "no network of modality CTA" in refused("pretrain", study, table, "--modality", "CTA", *out)
    study.write_text(json.dumps({**content, "model": {"backbone": "resnet19"}}))
    assert "resnet19" in refused("pretrain", study, table, *out)


def test_the_network_with_the_fewest_channels_of_the_first_backbone_is_pretrained(make_small: MakeStudy) -> None:
    config = make_small(space={"enumerate": {"model.modality": ["BOTH", "CTA"], "model.fusion": ["daft", "none"]}})
    chosen = network(config)
    assert (chosen.model.modality, chosen.model.fusion, chosen.training.epochs) == ("CTA", "none", 1)
    assert network(config, "BOTH", 7).model.modality == "BOTH"
    assert network(config, "BOTH", 7).training.epochs == 7
