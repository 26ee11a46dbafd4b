"""A trial whose network learns nothing, not even of its training patients, says so, and can start again."""

import dataclasses
import math
from collections.abc import Sized
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from rlvo.config.model import Configuration, DenseNetOptions, ModelConfig
from rlvo.config.training import TrainingConfig
from rlvo.evaluation.predictions import read_predictions
from rlvo.models.classifier import Classifier
from rlvo.search.halving import Contender, Rung, objective_curve
from rlvo.training import chance
from rlvo.training.chance import chance_limit, look_back
from rlvo.training.dataset import FoldData, Patients, Volumes
from rlvo.training.fit import Report, fit
from rlvo.training.records import CompletionRecord, TrialIdentity, read_epochs, read_record

EPOCHS = 2
AVERAGED = {"ema": 0.9, "checkpoint": "auc"}
SMALL = DenseNetOptions(init_features=4, growth_rate=4, block_config=(1, 1), stem_kernel=3)


class InterruptedTrialError(Exception):
    pass


def configured(restarts: int = 0, **training: object) -> Configuration:
    settings = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 3e-3, "schedule": "one_cycle", **training}
    return Configuration(
        model=ModelConfig(backbone="densenet121", densenet=SMALL),
        training=TrainingConfig.model_validate({"restarts": restarts, **settings}),
    )


def run(
    configuration: Configuration, data: FoldData, folder: Path, report: Report | None = None, until: int | None = None
) -> CompletionRecord | None:
    key = configuration.key
    identity = TrialIdentity(study="test", configuration=key, fold=1, split_hash="a" * 64, data_hash="b" * 64)
    return fit(configuration, data, folder, identity, seed=1, report=report, until=until)


def all_alike(data: FoldData) -> FoldData:
    """Patients who do not differ: there is nothing to learn, and all logits are the same."""

    def alike(patients: Patients) -> Patients:
        return dataclasses.replace(
            patients, volumes=(data.training.volumes[0],) * len(patients), tabular=np.zeros_like(patients.tabular)
        )

    return dataclasses.replace(data, training=alike(data.training), validation=alike(data.validation))


@pytest.mark.parametrize(("patients", "share"), [(40, 0.5), (180, 0.15), (400, 0.2)])
def test_scores_without_relation_exceed_the_limit_one_time_in_twenty(patients: int, share: float) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(patients) < share * patients).astype(int)
    limit, positives = chance_limit(labels), int(labels.sum())
    ranks = rng.random((4000, patients)).argsort(axis=1) + 1  # of every patient's score
    pairs = positives * (patients - positives)
    aucs = (ranks[:, labels == 1].sum(axis=1) - positives * (positives + 1) / 2) / pairs
    assert np.mean(aucs > limit) == pytest.approx(0.05, abs=0.012)
    scores = rng.random(patients) + 0.3 * labels
    p = mannwhitneyu(scores[labels == 1], scores[labels == 0], alternative="greater", method="asymptotic").pvalue
    assert (roc_auc_score(labels, scores) > limit) == (p < 0.05)


def test_the_limit_is_undefined_without_both_classes() -> None:
    assert math.isnan(chance_limit(np.ones(5)))


def test_a_trial_that_learns_has_left_chance(fold_data: FoldData, tmp_path: Path) -> None:
    configuration = configured(restarts=2, epochs=12, learning_rate=1e-2)
    record = run(configuration, fold_data, tmp_path)
    assert record == read_record(tmp_path)
    (start,) = record.starts
    assert start.training_auc > 0.9
    assert start.chance_limit == chance_limit(fold_data.training.labels)
    assert not record.never_left_chance


@pytest.mark.parametrize(("some", "all_of_them", "asked"), [(0.95, None, 1), (0.6, 0.8, 2), (0.6, 0.5, 3)])
def test_all_patients_are_asked_only_if_some_leave_a_doubt(
    fold_data: FoldData, monkeypatch: pytest.MonkeyPatch, some: float, all_of_them: float | None, asked: int
) -> None:
    """Logits with a known AUC are planted."""
    labels = np.arange(130) % 2
    patients = dataclasses.replace(
        fold_data.training,
        ids=tuple(map(str, range(130))),
        volumes=(fold_data.training.volumes[0],) * 130,
        tabular=np.arange(130, dtype=np.float32)[:, None],
        labels=labels,
    )
    few, rng = np.arange(130) % 3 == 0, np.random.default_rng(0)

    def draw(own: np.ndarray) -> np.ndarray:
        return rng.normal(size=len(own)) + own * rng.uniform(0, 3)

    def nearest(draws: list[np.ndarray], own: np.ndarray, auc: float) -> np.ndarray:
        return min(draws, key=lambda scores: abs(roc_auc_score(own, scores) - auc))

    scores = np.zeros(130)
    scores[few] = nearest([draw(labels[few]) for _ in range(1000)], labels[few], some)
    others = [np.where(few, scores, draw(labels)) for _ in range(3000 if all_of_them else 1)]
    scores = nearest(others, labels, all_of_them or 0.5)
    calls = []

    def planted(classifier: None, volumes: Sized, tabular: np.ndarray, batch: int) -> torch.Tensor:
        assert len(volumes) == len(tabular)
        calls.append(tabular[:, 0].astype(int).tolist())
        return torch.tensor(scores[calls[-1]])

    monkeypatch.setattr(chance, "predict_logits", planted)
    start = look_back(None, None, Volumes(patients, ("ncct",)), patients, 8)
    everyone = list(range(130))
    assert calls == [everyone[::3], [row for row in everyone if row % 3], everyone][:asked], "nobody is asked twice"
    assert start.left_chance == (asked < 3)
    assert start.training_auc == pytest.approx(some if asked == 1 else all_of_them, abs=0.01)
    assert start.chance_limit == (chance_limit(labels[::3], 2.3263) if asked == 1 else chance_limit(labels))


def test_some_patients_of_one_class_tell_nothing(fold_data: FoldData) -> None:
    labels = np.arange(66) % 2
    patients = dataclasses.replace(
        fold_data.training,
        ids=tuple(map(str, range(66))),
        volumes=(fold_data.training.volumes[0],) * 66,
        tabular=np.zeros((66, fold_data.training.tabular.shape[1]), np.float32),
        labels=labels,
    )
    classifier = Classifier(configured().model, patients.tabular.shape[1])
    start = look_back(classifier, classifier, Volumes(patients, configured().model.channels), patients, 8)
    assert start.training_auc == pytest.approx(0.5, abs=0.2), "all heads are the same, apart from rounding"
    assert start.chance_limit == chance_limit(labels)


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_trial_that_cannot_learn_starts_again_and_says_so(fold_data: FoldData, tmp_path: Path, restarts: int) -> None:
    record = run(configured(restarts), all_alike(fold_data), tmp_path)
    assert record == read_record(tmp_path)
    assert record.status == "finished"
    assert [start.training_auc for start in record.starts] == [0.5] * (restarts + 1)
    assert record.never_left_chance
    assert record.epochs == len(read_epochs(tmp_path)) == EPOCHS * (restarts + 1)
    assert EPOCHS * restarts < record.best_epoch <= record.epochs, "of the last start"
    rates = [line["lr"] for line in read_epochs(tmp_path)]
    assert rates == rates[:EPOCHS] * (restarts + 1), "the schedule begins anew"


def test_each_start_has_its_own_random_weights(fold_data: FoldData, tmp_path: Path) -> None:
    kept = {}

    def keep(epoch: int, metrics: dict[str, float]) -> None:
        kept[epoch] = load_file(tmp_path / "last" / "model.safetensors")["backbone.features.conv0.weight"]

    run(configured(1, epochs=1), all_alike(fold_data), tmp_path, report=keep)
    assert (kept[1] - kept[2]).abs().mean() > 0.05, "far more than an epoch moves them"


@pytest.mark.parametrize(
    ("epoch", "options"), [(1, {}), (2, AVERAGED), (3, AVERAGED), (4, {"schedule": "plateau"}), (6, AVERAGED)]
)
def test_an_interrupted_restart_continues_bit_identically(
    fold_data: FoldData, tmp_path: Path, epoch: int, options: dict[str, object]
) -> None:
    """Epochs 2 and 4 are the last of a start: what follows is decided when the trial goes on."""
    configuration, data = configured(2, **options), all_alike(fold_data)
    whole = run(configuration, data, tmp_path / "whole")

    def interrupt(number: int, metrics: dict[str, float]) -> None:
        if number == epoch:
            raise InterruptedTrialError

    with pytest.raises(InterruptedTrialError):
        run(configuration, data, tmp_path / "parts", report=interrupt)
    later: list[int] = []
    record = run(configuration, data, tmp_path / "parts", report=lambda *call: later.append(call[0]))
    assert later == list(range(epoch + 1, 7))
    assert record.model_copy(update={"seconds": whole.seconds}) == whole
    for name in ("last", "best"):
        one, other = (load_file(tmp_path / place / name / "model.safetensors") for place in ("whole", "parts"))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_second_start_that_leaves_chance_is_the_trial(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start is held to a limit that no network passes."""
    limits = iter([1.0])
    monkeypatch.setattr(chance, "chance_limit", lambda labels: next(limits, None) or chance_limit(labels))
    record = run(configured(3, epochs=8, learning_rate=1e-2), fold_data, tmp_path)
    assert [start.left_chance for start in record.starts] == [False, True]
    assert not record.never_left_chance
    assert (record.epochs, record.best_epoch > 8) == (16, True)
    table = read_predictions(tmp_path / "predictions.csv")
    assert record.objective == pytest.approx(roc_auc_score(table["label"], table["probability"]))
    second = read_epochs(tmp_path)[8:]
    assert record.metrics["val/loss"] == min(line["val/loss"] for line in second)


def test_a_trial_in_rungs_starts_again_only_after_its_last_epoch(fold_data: FoldData, tmp_path: Path) -> None:
    configuration, data, seen = configured(1, epochs=3), all_alike(fold_data), list[int]()
    whole = run(configuration, data, tmp_path / "whole")
    for until in (1, 2, 3):
        record = run(configuration, data, tmp_path / "parts", until=until, report=lambda *call: seen.append(call[0]))
        assert (record is None) == (until < 3)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


def test_a_rung_of_whole_trials_compares_their_last_start() -> None:
    """A rung below compares the first start, whatever came later."""
    rungs = (Rung(1, 1), Rung(1, 2), Rung(2, 2))
    epochs = [{"val/loss": loss, "val/auc": auc} for loss, auc in ((0.9, 0.5), (0.8, 0.4), (0.7, 0.6), (0.6, 0.9))]
    configuration = configured(1)
    contender = Contender(configuration.key, configuration, rungs, (0, ()), [epochs[:2], []])
    assert list(contender.values) == [0.5], "not yet: it may start again"
    contender.epochs[0] = epochs
    contender.rung = 1
    assert not contender.has_arrived(0)
    identity = TrialIdentity(study="s", configuration=configuration.key, fold=0, split_hash="", data_hash="")
    record = CompletionRecord(
        identity=identity,
        configuration=configuration,
        status="finished",
        best_epoch=4,
        epochs=4,
        metrics=epochs[3],
        seconds=1.0,
    )
    contender.note(0, record)
    assert list(contender.values) == [0.5, 0.9]
    assert contender.has_arrived(0)


def test_what_a_rung_compares_follows_the_kept_epoch() -> None:
    epochs = [{"val/loss": loss, "val/auc": auc} for loss, auc in ((0.6, 0.5), (0.5, 0.7), (0.7, 0.7), (0.9, 0.6))]
    assert objective_curve([epochs], "loss") == [0.5, 0.7, 0.7, 0.7]
    assert objective_curve([epochs], "auc") == [0.5, 0.7, 0.7, 0.7]
    assert objective_curve([epochs], "last") == [0.5, 0.7, 0.7, 0.6]
    undefined = [{"val/loss": 0.5}, *epochs[1:]]
    assert objective_curve([undefined], "auc") == [-math.inf, 0.7, 0.7, 0.7]
