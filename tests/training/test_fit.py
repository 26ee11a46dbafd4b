"""A trial learns, repeats, continues after any interruption, and says what went wrong."""

import dataclasses
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss, roc_auc_score

from rlvo.config.model import Configuration, DenseNetOptions, ModelConfig
from rlvo.config.training import TrainingConfig
from rlvo.errors import DiskFullError, MachineError, PatientError, RlvoError, StorageError
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import file_sha256
from rlvo.imaging.prepare import Prepared
from rlvo.imaging.store import VolumeStore, open_volumes
from rlvo.models.classifier import Classifier
from rlvo.training.average import WeightAverage
from rlvo.training.checkpoint import Saver, load_last
from rlvo.training.dataset import FoldData, Patients, Volumes
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


def test_a_trial_computes_with_the_threads_of_its_share(fold_data: FoldData, tmp_path: Path) -> None:
    before, computed = torch.get_num_threads(), list[int]()
    try:
        for threads in (2, 1, None):
            configuration = configured(epochs=1)
            identity = TrialIdentity(
                study=str(threads), configuration=configuration.key, fold=1, split_hash="a" * 64, data_hash="b" * 64
            )
            folder = tmp_path / str(threads)
            told = lambda *_: computed.append(torch.get_num_threads())  # noqa: E731
            fit(configuration, fold_data, folder, identity, seed=1, device="cpu", threads=threads, report=told)
    finally:
        torch.set_num_threads(before)
    assert computed == [2, 1, 1], "None keeps what the process has"


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


@pytest.mark.parametrize("version", ["this", "earlier"])
def test_answers_of_a_best_epoch_outlast_an_interruption_and_are_asked_anew_if_missing(
    fold_data: FoldData, tmp_path: Path, version: str
) -> None:
    """The process that was interrupted had the best epoch."""
    configuration = configured(epochs=4, checkpoint="auc")
    assert run(configuration, fold_data, tmp_path / "whole").best_epoch == 3
    run(configuration, fold_data, tmp_path / "cut", until=3)
    last = tmp_path / "cut" / "last"
    state = torch.load(last / "state.pt", weights_only=True)
    assert len(state["progress"]["best_answers"]) == len(fold_data.validation)
    if version == "earlier":
        del state["progress"]["best_answers"]
        torch.save(state, last / "state.pt")
        manifest = json.loads((last / "manifest.json").read_text())
        (last / "manifest.json").write_text(json.dumps({**manifest, "state.pt": file_sha256(last / "state.pt")}))
    run(configuration, fold_data, tmp_path / "cut")
    assert_same(tmp_path / "whole", tmp_path / "cut")


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


AVERAGED = {"ema": 0.9, "checkpoint": "auc", "label_smoothing": 0.1}


@pytest.mark.parametrize("options", [{"schedule": "plateau"}, {"schedule": "one_cycle"}, AVERAGED])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_interrupted_trial_continues_bit_identically(
    fold_data: FoldData, tmp_path: Path, options: dict[str, object], epoch: int
) -> None:
    jitter = {"intensity": 0.1}
    configuration = configured(epochs=4, plateau_patience=0, clip_norm=1.0, augmentation=jitter, **options)
    whole = run(configuration, fold_data, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(configuration, fold_data, tmp_path / "parts", report=interrupt_after(epoch))
    assert read_record(tmp_path / "parts") is None
    later: list[int] = []
    record = run(configuration, fold_data, tmp_path / "parts", report=lambda *call: later.append(call[0]))
    assert later == list(range(epoch + 1, 5))
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


@pytest.mark.parametrize("options", [{}, AVERAGED, {"ema": 0.99, "checkpoint": "last", "micro_batch": 1}])
@pytest.mark.parametrize(("saved", "killed"), [({1}, 3), ({1, 3}, 4)])
def test_a_killed_trial_repeats_what_it_had_not_saved_and_ends_the_same(
    fold_data: FoldData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved: set[int],
    killed: int,
    options: dict[str, object],
) -> None:
    """It dies after an epoch whose line is on disk, while the last checkpoint is older."""
    configuration, parts = configured(epochs=5, learning_rate=1e-2, **options), tmp_path / "parts"
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


def kept_epoch(folder: Path, by: str) -> int:
    epochs = read_epochs(folder)
    chosen = {
        "loss": min(epochs, key=lambda line: line["val/loss"]),
        "auc": max(epochs, key=lambda line: line["val/auc"]),  # the first of equals
        "last": epochs[-1],
    }[by]
    return int(chosen["epoch"])


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_kept_epoch_is_the_chosen_one(fold_data: FoldData, tmp_path: Path, ema: float | None) -> None:
    agreed = []
    for by in ("loss", "auc", "last"):
        configuration = configured(epochs=5, learning_rate=1e-3, checkpoint=by, ema=ema)
        folder, patients = tmp_path / by, fold_data.validation
        record = run(configuration, fold_data, folder)
        assert record.best_epoch == kept_epoch(folder, by)
        assert record.objective == read_epochs(folder)[record.best_epoch - 1]["val/auc"]
        table = read_predictions(folder / "predictions.csv")
        assert roc_auc_score(table["label"], table["probability"]) == pytest.approx(record.objective)
        assert log_loss(table["label"], table["probability"]) == pytest.approx(record.metrics["val/loss"], abs=1e-6)
        weights = load_classifier(folder / "best" / "model.safetensors", configuration.model, 4)
        again = predict_probabilities(weights, Volumes(patients, configuration.model.channels), patients.tabular)
        np.testing.assert_allclose(again, table["probability"], rtol=0, atol=1e-6)
        agreed.append(len({kept_epoch(folder, each) for each in ("loss", "auc", "last")}))
    assert max(agreed) > 1, "here the choice matters"


def test_what_is_kept_is_the_average_over_the_steps(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights and batch norm's statistics, worked out from the network's after every step."""
    steps: list[dict[str, torch.Tensor]] = []
    update = WeightAverage.update

    def watched(average: WeightAverage, network: Classifier) -> None:
        if not steps:
            steps.append({name: value.clone() for name, value in average.network.state_dict().items()})
        steps.append({name: value.clone() for name, value in network.state_dict().items()})
        update(average, network)

    monkeypatch.setattr(WeightAverage, "update", watched)
    configuration = configured(epochs=2, checkpoint="last", ema=0.8, learning_rate=1e-2)
    run(configuration, fold_data, tmp_path)
    kept, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("best", "last"))
    assert len(steps) == 1 + 2 * 11
    for name, value in kept.items():
        expected = steps[0][name].double()
        for step, after in enumerate(steps[1:]):
            decay = min(0.8, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * after[name].double()
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-5)
        else:
            assert torch.equal(value, trained[name])
    moved = {name for name, value in kept.items() if not torch.equal(value, trained[name])}
    assert {name.rpartition(".")[2] for name in moved} == {"weight", "bias", "running_mean", "running_var"}


def test_the_affected_side_survives_averaging(fold_data: FoldData, tmp_path: Path) -> None:
    """The column of the table that tells it is a whole number, which an average would truncate."""
    turned = configured(epochs=2, ema=0.9)
    turned = turned.model_copy(update={"model": turned.model.model_copy(update={"side": "canonical"})})
    run(turned, fold_data, tmp_path)
    column = load_file(tmp_path / "best" / "model.safetensors")["symmetry.right"].item()
    assert fold_data.encoder.feature_names[column] == "occlusion_side=right"


def test_smoothed_labels_are_learned_and_plain_ones_validated(fold_data: FoldData, tmp_path: Path) -> None:
    """With ε = .8 the best a network can say is .6 and .4, so the training loss stays above the entropy of that."""
    losses = {}
    for smoothing in (0.0, 0.8):
        settings = {"epochs": 10, "batch_size": 4, "learning_rate": 1e-2, "schedule": "one_cycle", "checkpoint": "last"}
        run(configured(**settings, label_smoothing=smoothing), fold_data, tmp_path / str(smoothing))
        losses[smoothing] = [line["train/loss"] for line in read_epochs(tmp_path / str(smoothing))]
        table = read_predictions(tmp_path / str(smoothing) / "predictions.csv")
        validated = read_epochs(tmp_path / str(smoothing))[-1]["val/loss"]
        assert validated == pytest.approx(log_loss(table["label"], table["probability"]), abs=1e-6)
    floor = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert min(losses[0.0]) < floor < min(losses[0.8])


def test_validation_labels_reach_no_weight(fold_data: FoldData, tmp_path: Path) -> None:
    """With the last epoch kept and a schedule by step, nothing that is learned may depend on them."""
    options = {"checkpoint": "last", "ema": 0.9, "label_smoothing": 0.1, "schedule": "one_cycle", "pos_weight": True}
    permuted = dataclasses.replace(fold_data.validation, labels=1 - fold_data.validation.labels)
    for name, data in (("true", fold_data), ("permuted", dataclasses.replace(fold_data, validation=permuted))):
        run(configured(epochs=2, **options), data, tmp_path / name)
    for name in ("last", "best"):
        true, other = (load_file(tmp_path / labels / name / "model.safetensors") for labels in ("true", "permuted"))
        assert all(torch.equal(value, other[key]) for key, value in true.items())
    assert (tmp_path / "true" / "epochs.jsonl").read_text() != (tmp_path / "permuted" / "epochs.jsonl").read_text()


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


def stored(patients: Patients, store: VolumeStore) -> Patients:
    """The same patients, their volumes with checksums."""
    for patient, folder in zip(patients.ids, patients.volumes, strict=True):
        store.put(patient, Prepared(dict(open_volumes(folder)), (), (), {}, {}), seconds=0)
    return dataclasses.replace(patients, volumes=tuple(map(store.folder, patients.ids)))


@pytest.mark.parametrize("fold_part", ["training", "validation"])
def test_nothing_is_kept_of_an_epoch_in_which_a_volume_changed(
    fold_data: FoldData, tmp_path: Path, fold_part: str
) -> None:
    store = VolumeStore(tmp_path / "checked")
    parts = {part: stored(getattr(fold_data, part), store) for part in ("training", "validation")}
    data = dataclasses.replace(fold_data, **parts)
    path = parts[fold_part].volumes[4] / "cta.npy"
    sound = path.read_bytes()
    changed = sound[:-2000] + bytes(2000)  # other HU, all finite

    def change(epoch: int, metrics: dict[str, float]) -> None:
        os.utime(path, (0, 0)) if epoch == 1 else path.write_bytes(changed)  # touched: no harm

    with pytest.raises(PatientError, match=rf"patient {parts[fold_part].ids[4]}: damaged volume.*Prepare"):
        run(configured(), data, tmp_path / "trial", report=change)
    assert len(read_epochs(tmp_path / "trial")) == 2
    with pytest.raises(PatientError, match="damaged volume"):
        run(configured(), data, tmp_path / "trial")
    path.write_bytes(sound)
    run(configured(), data, tmp_path / "trial")
    run(configured(), fold_data, tmp_path / "undisturbed")
    assert_same(tmp_path / "trial", tmp_path / "undisturbed")


def test_a_loss_that_a_changed_volume_made_infinite_fails_no_trial(fold_data: FoldData, tmp_path: Path) -> None:
    data = dataclasses.replace(fold_data, training=stored(fold_data.training, VolumeStore(tmp_path / "checked")))
    paths = [folder / "cta.npy" for folder in data.training.volumes]

    def change(epoch: int, metrics: dict[str, float]) -> None:
        for path in paths:  # one may be left over from an epoch's batches
            volume = np.load(path)
            with path.open("r+b") as file:
                file.seek(-volume.nbytes, os.SEEK_END)
                file.write(np.full_like(volume, np.inf).tobytes())

    with pytest.raises(PatientError, match="patient p00: damaged volume"):
        run(configured(), data, tmp_path / "trial", report=change)
    assert read_record(tmp_path / "trial") is None


def test_too_little_memory_is_told_apart(fold_data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"out of memory\. Set a smaller training\.batch_size.*resources\.gpus"):
        run(configured(init_features=10**9), fold_data, tmp_path)


def test_a_folder_that_takes_nothing_is_one_line(fold_data: FoldData) -> None:
    folder = Path("/sys/kernel/trial")  # nobody makes one there, root neither
    with pytest.raises(StorageError, match=rf"{folder}: there is no writing or reading here any more.*Restore access"):
        run(configured(epochs=1), fold_data, folder)


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
