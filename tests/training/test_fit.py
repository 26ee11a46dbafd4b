"""A trial learns, repeats, continues after any interruption, and says what went wrong."""

import dataclasses
import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss, roc_auc_score

from rlvo.config.model import Configuration, DenseNetOptions, ModelConfig, TrainingConfig
from rlvo.errors import DiskFullError, MachineError, PatientError, RlvoError
from rlvo.evaluation.predictions import read_predictions
from rlvo.training.checkpoint import Saver, load_last
from rlvo.training.dataset import FoldData, Volumes
from rlvo.training.fit import Report, fit
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.records import CompletionRecord, TrialIdentity, read_epochs, read_record

METRICS = {
    "train/loss", "val/loss", "val/auc", "val/balanced_accuracy", "val/f1", "val/sensitivity", "val/specificity", "lr",
}  # fmt: skip


class InterruptedTrialError(Exception):
    pass


def configured(block_config: tuple[int, ...] = (1, 1), init_features: int = 4, **training: object) -> Configuration:
    densenet = DenseNetOptions(init_features=init_features, growth_rate=4, block_config=block_config, stem_kernel=3)
    settings = {"epochs": 3, "batch_size": 2, "learning_rate": 3e-3, **training}
    return Configuration(
        model=ModelConfig(backbone="densenet121", dropout=0.1, densenet=densenet),
        training=TrainingConfig.model_validate(settings),
    )


def run(
    configuration: Configuration,
    data: FoldData,
    folder: Path,
    seed: int = 1,
    report: Report | None = None,
    until: int | None = None,
) -> CompletionRecord | None:
    key = configuration.key
    identity = TrialIdentity(study="test", configuration=key, fold=1, split_hash="a" * 64, data_hash="b" * 64)
    return fit(configuration, data, folder, identity, seed=seed, report=report, until=until)


def interrupt_after(epoch: int) -> Report:
    def report(number: int, metrics: dict[str, float]) -> None:
        if number == epoch:
            raise InterruptedTrialError

    return report


def assert_same(one: Path, other: Path) -> None:
    """Two runs of a trial have the same epochs, predictions and weights, to the bit."""
    for name in ("epochs.jsonl", "predictions.csv"):
        assert (one / name).read_text() == (other / name).read_text()
    for name in ("last", "best"):
        first, second = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        for key, value in first.items():
            assert torch.equal(value, second[key]), f"{name}: {key}"


def test_a_trial_learns_and_leaves_a_whole_record(fold_data: FoldData, tmp_path: Path) -> None:
    configuration = configured(epochs=12, batch_size=4, learning_rate=1e-2, schedule="one_cycle", optimizer="adamw")
    reported: list[tuple[int, dict[str, float]]] = []
    record = run(configuration, fold_data, tmp_path / "trial", report=lambda *call: reported.append(call))
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


def test_predictions_are_the_best_checkpoints_and_reproducible(fold_data: FoldData, tmp_path: Path) -> None:
    configuration, patients = configured(), fold_data.validation
    record = run(configuration, fold_data, tmp_path)
    table = read_predictions(tmp_path / "predictions.csv")
    assert tuple(table["patient"]) == patients.ids
    assert set(table["member"]) == {f"{configuration.key}-f1"}
    assert set(table["split"]) == {"validation"}
    assert record.metrics["val/auc"] == pytest.approx(roc_auc_score(table["label"], table["probability"]))
    assert record.metrics["val/loss"] == pytest.approx(log_loss(table["label"], table["probability"]), abs=1e-6)

    weights, features = tmp_path / "best" / "model.safetensors", patients.tabular.shape[1]
    classifier = load_classifier(weights, configuration.model, features)
    again = predict_probabilities(classifier, Volumes(patients, configuration.model.channels), patients.tabular, 5)
    np.testing.assert_allclose(again, table["probability"], rtol=0, atol=1e-6)


def test_the_same_seed_gives_the_same_trial_and_another_does_not(fold_data: FoldData, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(1)  # the caller's random state must not matter
        run(configured(epochs=2), fold_data, tmp_path / name, seed)
    assert_same(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "epochs.jsonl").read_text() != (tmp_path / "c" / "epochs.jsonl").read_text()


def test_the_callers_random_state_is_left_alone(fold_data: FoldData, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(configured(epochs=1), fold_data, tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_interrupted_trial_continues_bit_identically(
    fold_data: FoldData, tmp_path: Path, schedule: str, epoch: int
) -> None:
    jitter = {"intensity": 0.1}
    configuration = configured(epochs=4, schedule=schedule, plateau_patience=0, clip_norm=1.0, augmentation=jitter)
    whole = run(configuration, fold_data, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(configuration, fold_data, tmp_path / "parts", report=interrupt_after(epoch))
    assert read_record(tmp_path / "parts") is None
    later: list[int] = []
    record = run(configuration, fold_data, tmp_path / "parts", report=lambda *call: later.append(call[0]))
    assert later == list(range(epoch + 1, 5))
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


@pytest.mark.parametrize(("saved", "killed"), [({1}, 3), ({1, 3}, 4)])
def test_a_killed_trial_repeats_what_it_had_not_saved_and_ends_the_same(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: set[int], killed: int
) -> None:
    """It dies after an epoch whose line is on disk, while the last checkpoint is older."""
    configuration, parts = configured(epochs=5, learning_rate=1e-2), tmp_path / "parts"
    whole = run(configuration, fold_data, tmp_path / "whole")
    save = Saver.save
    with monkeypatch.context() as patched:
        patched.setattr(Saver, "_is_due", lambda saver: True)
        patched.setattr(Saver, "save", lambda saver: len(saver._progress.epochs) in saved and save(saver))
        with pytest.raises(InterruptedTrialError):
            run(configuration, fold_data, parts, report=interrupt_after(killed))
    assert len(read_epochs(parts)) == killed
    seen: list[int] = []
    record = run(configuration, fold_data, parts, report=lambda *call: seen.append(call[0]))
    assert seen == list(range(max(saved) + 1, 6))
    assert_same(tmp_path / "whole", parts)
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


@pytest.mark.parametrize("until", [1, 3])
def test_a_trial_that_stops_at_an_epoch_continues_from_it(fold_data: FoldData, tmp_path: Path, until: int) -> None:
    configuration = configured(epochs=4)
    whole = run(configuration, fold_data, tmp_path / "whole")
    seen: list[int] = []
    for _ in range(2):  # asked again, it has nothing to do
        stopped = run(
            configuration, fold_data, tmp_path / "parts", until=until, report=lambda *call: seen.append(call[0])
        )
        assert stopped is None
        assert len(load_last(tmp_path / "parts").progress.epochs) == len(read_epochs(tmp_path / "parts")) == until
    record = run(configuration, fold_data, tmp_path / "parts", until=4, report=lambda *call: seen.append(call[0]))
    assert seen == [1, 2, 3, 4]
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


def test_the_epoch_to_stop_after_is_saved_before_it_is_told(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that reads of it compares the trial, and may end it at its checkpoint."""
    saved: list[int] = []

    def tell(folder: Path, epochs: list[dict[str, float]], **_: bool) -> None:
        saved.append(len(load_last(folder).progress.epochs))

    monkeypatch.setattr("rlvo.training.fit.write_epochs", tell)
    monkeypatch.setattr(Saver, "_is_due", lambda saver: len(saver._progress.epochs) == 1)
    run(configured(epochs=4), fold_data, tmp_path, until=3)
    assert saved == [1, 1, 3]


def test_a_finished_trial_is_not_trained_again(fold_data: FoldData, tmp_path: Path) -> None:
    record = run(configured(epochs=1), fold_data, tmp_path)
    assert run(configured(epochs=1), fold_data, tmp_path, report=interrupt_after(1)) == record


def test_another_trials_folder_is_refused(fold_data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrialError):
        run(configured(epochs=1), fold_data, tmp_path, report=interrupt_after(1))
    with pytest.raises(RlvoError, match="another trial"):
        run(configured(epochs=2), fold_data, tmp_path)
    run(configured(epochs=1), fold_data, tmp_path)
    with pytest.raises(RlvoError, match="another trial"):
        run(configured(epochs=2), fold_data, tmp_path)


def test_a_loss_that_is_not_finite_ends_the_trial_as_failed(fold_data: FoldData, tmp_path: Path) -> None:
    broken = fold_data.training.volumes[4] / "cta.npy"
    volume = np.load(broken)
    volume[~fold_data.brain_mask] = np.inf  # the statistics, taken inside the brain, stay finite
    np.save(broken, volume)
    record = run(configured(), fold_data, tmp_path)
    # The patient may have been the one left over from the first epoch's batches.
    assert (record.outcome, record.failure) == ("failed", f"the training loss became nan in epoch {record.epochs + 1}")
    assert record.epochs <= 1
    assert read_record(tmp_path) == record
    json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)


def test_volumes_too_small_are_refused_before_training(fold_data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match=r"16×14×12 voxels is too small.*smallest cube that works is 29×29×29"):
        run(configured(block_config=(1, 1, 1, 1)), fold_data, tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


def test_batch_size_one_and_positive_weight(fold_data: FoldData, tmp_path: Path) -> None:
    training = dataclasses.replace(fold_data.training, labels=(np.arange(23) % 4 == 0).astype(int))
    data = dataclasses.replace(fold_data, training=training)
    for name, is_weighted in (("plain", False), ("weighted", True)):
        run(configured(epochs=1, batch_size=1, pos_weight=is_weighted), data, tmp_path / name)
    weighted_loss, plain_loss = (read_epochs(tmp_path / name)[0]["train/loss"] for name in ("weighted", "plain"))
    assert weighted_loss > plain_loss


@pytest.mark.parametrize(("damage", "message"), [(Path.unlink, "is missing"), (Path.touch, "damaged volume")])
def test_a_patients_bad_volume_is_reported_with_the_patient(
    fold_data: FoldData, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    volume = fold_data.training.volumes[4] / "cta.npy"
    volume.unlink()
    volume.touch()
    damage(volume)
    with pytest.raises(PatientError, match=f"patient p04: .*{message}"):
        run(configured(), fold_data, tmp_path)


def test_too_little_memory_is_told_apart(fold_data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"out of memory\. Set a smaller training\.batch_size.*resources\.gpus"):
        run(configured(init_features=10**9), fold_data, tmp_path)


def test_after_a_full_disk_the_trial_continues_once_there_is_room(fold_data: FoldData, tmp_path: Path) -> None:
    whole = run(configured(epochs=4), fold_data, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(DiskFullError, match=r"trial: file size limit\. Free some space.*last checkpoints"):
            run(configured(epochs=4), fold_data, tmp_path / "trial", report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    later: list[int] = []
    record = run(configured(epochs=4), fold_data, tmp_path / "trial", report=lambda *call: later.append(call[0]))
    assert later[-2:] == [3, 4]  # before them epoch 2, if its checkpoint was not worth it yet
    assert record.files == whole.files
