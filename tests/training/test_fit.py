import dataclasses
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss, roc_auc_score

from rlvo.errors import DiskFullError, MachineError, PatientError, RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.training.dataset import Volumes
from rlvo.training.fit import fit
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.records import read_epochs, read_record

METRICS = {
    "train/loss",
    "val/loss",
    "val/auc",
    "val/balanced_accuracy",
    "val/f1",
    "val/sensitivity",
    "val/specificity",
    "lr",
}


class InterruptedTrialError(Exception):
    pass


def interrupt_after(epoch):
    def report(number, metrics):
        if number == epoch:
            raise InterruptedTrialError

    return report


def trained(folder):
    """Everything that must be equal between two runs of a trial."""
    weights = {name: load_file(folder / name / "model.safetensors") for name in ("last", "best")}
    return (folder / "epochs.jsonl").read_text(), (folder / "predictions.csv").read_text(), weights


def assert_same(one, other):
    assert one[:2] == other[:2]
    for name in ("last", "best"):
        for key, value in one[2][name].items():
            assert torch.equal(value, other[2][name][key]), f"{name}: {key}"


def test_a_trial_learns_and_leaves_a_whole_record(fold_data, configured, identified, tmp_path):
    configuration = configured(epochs=12, batch_size=4, learning_rate=1e-2, schedule="one_cycle", optimizer="adamw")
    reported = []
    record = fit(
        configuration,
        fold_data,
        tmp_path / "trial",
        identified(configuration),
        seed=1,
        report=lambda epoch, metrics: reported.append((epoch, metrics)),
    )
    assert record == read_record(tmp_path / "trial")
    assert record.status == "finished"
    epochs = read_epochs(tmp_path / "trial")
    assert [(line.pop("epoch"), line) for line in [dict(line) for line in epochs]] == reported
    assert set(reported[0][1]) == METRICS
    assert record.metrics["val/auc"] > 0.9
    assert record.metrics["val/loss"] == min(line["val/loss"] for line in epochs)
    assert record.best_epoch == 1 + int(np.argmin([line["val/loss"] for line in epochs]))
    assert set(record.files) == {"best/model.safetensors", "epochs.jsonl", "predictions.csv"}
    assert {path.name for path in (tmp_path / "trial").iterdir()} == {
        "best", "last", "epochs.jsonl", "predictions.csv", "record.json"
    }  # fmt: skip


def test_predictions_are_the_best_checkpoints_and_reproducible(fold_data, configured, identified, tmp_path):
    configuration = configured()
    record = fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)
    table = read_predictions(tmp_path / "trial" / "predictions.csv")
    assert tuple(table["patient"]) == fold_data.validation.ids
    assert set(table["member"]) == {f"{configuration.key}-f1"}
    assert set(table["split"]) == {"validation"}
    assert record.metrics["val/auc"] == pytest.approx(roc_auc_score(table["label"], table["probability"]))
    assert record.metrics["val/loss"] == pytest.approx(log_loss(table["label"], table["probability"]), abs=1e-6)

    classifier = load_classifier(tmp_path / "trial", configuration.model, fold_data.validation.tabular.shape[1])
    volumes = Volumes(fold_data.validation, configuration.model.channels)
    again = predict_probabilities(classifier, volumes, fold_data.validation.tabular, 5)
    np.testing.assert_allclose(again, table["probability"], rtol=0, atol=1e-6)


def test_the_same_seed_gives_the_same_trial_and_another_does_not(fold_data, configured, identified, tmp_path):
    configuration = configured(epochs=2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(1)  # the caller's random state must not matter
        fit(configuration, fold_data, tmp_path / name, identified(configuration), seed=seed)
    assert_same(trained(tmp_path / "a"), trained(tmp_path / "b"))
    assert trained(tmp_path / "a")[0] != trained(tmp_path / "c")[0]


def test_the_callers_random_state_is_left_alone(fold_data, configured, identified, tmp_path):
    configuration = configured(epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_interrupted_trial_goes_on_bit_identically(fold_data, configured, identified, tmp_path, schedule, epoch):
    configuration = configured(
        epochs=4, schedule=schedule, plateau_patience=0, clip_norm=1.0, augmentation={"intensity": 0.1}
    )
    identity = identified(configuration)
    whole = fit(configuration, fold_data, tmp_path / "whole", identity, seed=3)
    with pytest.raises(InterruptedTrialError):
        fit(configuration, fold_data, tmp_path / "parts", identity, seed=3, report=interrupt_after(epoch))
    assert read_record(tmp_path / "parts") is None
    later = []
    record = fit(
        configuration, fold_data, tmp_path / "parts", identity, seed=3, report=lambda *call: later.append(call[0])
    )
    assert later == list(range(epoch + 1, 5))
    assert_same(trained(tmp_path / "whole"), trained(tmp_path / "parts"))
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


def test_a_finished_trial_is_not_trained_again(fold_data, configured, identified, tmp_path):
    configuration = configured(epochs=1)
    record = fit(configuration, fold_data, tmp_path, identified(configuration), seed=1)
    again = fit(configuration, fold_data, tmp_path, identified(configuration), seed=1, report=interrupt_after(1))
    assert again == record


def test_anothers_folder_is_refused(fold_data, configured, identified, tmp_path):
    configuration, other = configured(epochs=1), configured(epochs=2)
    with pytest.raises(InterruptedTrialError):
        fit(configuration, fold_data, tmp_path, identified(configuration), seed=1, report=interrupt_after(1))
    with pytest.raises(RlvoError, match="another trial"):
        fit(other, fold_data, tmp_path, identified(other), seed=1)
    fit(configuration, fold_data, tmp_path, identified(configuration), seed=1)
    with pytest.raises(RlvoError, match="another trial"):
        fit(other, fold_data, tmp_path, identified(other), seed=1)


def test_a_loss_that_is_not_finite_ends_the_trial_as_failed(fold_data, configured, identified, tmp_path):
    broken = fold_data.training.volumes[4] / "cta.npy"
    volume = np.load(broken)
    volume[~fold_data.brain_mask] = np.inf  # the statistics, taken inside the brain, stay finite
    np.save(broken, volume)
    configuration = configured()
    record = fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)
    assert record.status == "failed"
    # The patient may have been the one left over from the first epoch's batches.
    assert record.reason == f"the training loss became nan in epoch {record.epochs + 1}"
    assert record.epochs <= 1
    assert read_record(tmp_path / "trial") == record
    json.loads((tmp_path / "trial" / "record.json").read_text(), parse_constant=pytest.fail)


def test_volumes_too_small_are_refused_before_training(fold_data, configured, identified, tmp_path):
    configuration = configured(block_config=(1, 1, 1, 1))
    with pytest.raises(RlvoError, match=r"16×14×12 voxels is too small.*smallest cube that works is 29×29×29"):
        fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)
    assert not (tmp_path / "trial").exists()


def test_batch_size_one_and_positive_weight(fold_data, configured, identified, tmp_path):
    training = dataclasses.replace(fold_data.training, labels=(np.arange(23) % 4 == 0).astype(int))
    data = dataclasses.replace(fold_data, training=training)
    plain, weighted = configured(epochs=1, batch_size=1), configured(epochs=1, batch_size=1, pos_weight=True)
    for name, configuration in (("plain", plain), ("weighted", weighted)):
        fit(configuration, data, tmp_path / name, identified(configuration), seed=1)
    weighted_loss, plain_loss = (read_epochs(tmp_path / name)[0]["train/loss"] for name in ("weighted", "plain"))
    assert weighted_loss > plain_loss


@pytest.mark.parametrize(("damage", "complaint"), [(Path.unlink, "not there"), (Path.touch, "damaged volume")])
def test_a_patients_bad_volume_is_told_with_the_patient(fold_data, configured, identified, tmp_path, damage, complaint):
    volume = fold_data.training.volumes[4] / "cta.npy"
    volume.unlink()
    volume.touch()
    damage(volume)
    configuration = configured()
    with pytest.raises(PatientError, match=f"patient p04: .*{complaint}"):
        fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)


def test_too_little_memory_is_told_apart(fold_data, configured, identified, tmp_path):
    configuration = configured()
    densenet = configuration.model.densenet.model_copy(update={"init_features": 10**9})
    configuration = configuration.model_copy(
        update={"model": configuration.model.model_copy(update={"densenet": densenet})}
    )
    with pytest.raises(MachineError, match=r"out of memory\. Set a smaller training\.batch_size.*resources\.gpus"):
        fit(configuration, fold_data, tmp_path / "trial", identified(configuration), seed=1)


def test_a_full_disk_is_told_and_the_trial_goes_on_once_there_is_room(fold_data, configured, identified, tmp_path):
    configuration = configured(epochs=4)
    identity = identified(configuration)
    whole = fit(configuration, fold_data, tmp_path / "whole", identity, seed=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(epoch, metrics):
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(DiskFullError, match=r"trial: file size limit\. Make room.*last checkpoints"):
            fit(configuration, fold_data, tmp_path / "trial", identity, seed=3, report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    later = []
    record = fit(
        configuration, fold_data, tmp_path / "trial", identity, seed=3, report=lambda *call: later.append(call[0])
    )
    assert later == [3, 4]
    assert record.files == whole.files
