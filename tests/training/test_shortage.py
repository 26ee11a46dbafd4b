"""A trial that runs out of memory goes on with fewer patients at once, and what it learns is that of such a trial."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlvo.config.model import Configuration, DenseNetOptions, ModelConfig
from rlvo.config.training import TrainingConfig
from rlvo.errors import MachineError
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import FoldData
from rlvo.training.fit import Report, fit
from rlvo.training.records import KILLED, CompletionRecord, Retry, TrialIdentity, read_epochs, read_record
from rlvo.training.shortage import OutOfMemoryError, keep_to_share, out_of_memory_errors

EPOCHS = 3


def configured(micro_batch: int | None = None) -> Configuration:
    densenet = DenseNetOptions(init_features=4, growth_rate=4, block_config=(1, 1), stem_kernel=3)
    return Configuration(
        model=ModelConfig(backbone="densenet121", dropout=0.1, densenet=densenet),
        training=TrainingConfig(epochs=EPOCHS, batch_size=8, micro_batch=micro_batch, learning_rate=3e-3),
    )


IDENTITY = TrialIdentity(study="test", configuration=configured().key, fold=1, split_hash="a" * 64, data_hash="b" * 64)


def run(data: FoldData, folder: Path, micro_batch: int | None = None, report: Report | None = None) -> CompletionRecord:
    return fit(configured(micro_batch), data, folder, IDENTITY, seed=1, report=report)


class Card:
    """A device that holds so many patients in a training step, from its n-th step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, patients: int, from_step: int = 0) -> None:
        self.steps, forward = 0, Classifier.forward

        def limited(classifier: Classifier, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
            self.steps += classifier.training
            if classifier.training and self.steps > from_step and len(volume) > patients:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.40 GiB")
            return forward(classifier, volume, tabular)

        monkeypatch.setattr(Classifier, "forward", limited)


class InterruptedTrialError(Exception):
    pass


def interrupt_after(epoch: int) -> Report:
    def report(number: int, metrics: dict[str, float]) -> None:
        if number == epoch:
            raise InterruptedTrialError

    return report


def assert_same(one: Path, other: Path) -> None:
    assert read_epochs(one) == read_epochs(other)
    for name in ("last", "best"):
        first, second = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(("fits", "retries"), [(4, [(1, 4)]), (3, [(1, 4), (1, 2)])])
def test_a_trial_that_does_not_fit_is_that_of_the_parts_that_fit(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, retries: list[tuple[int, int]]
) -> None:
    run(fold_data, tmp_path / "parts", micro_batch=retries[-1][1])
    Card(monkeypatch, fits)
    record = run(fold_data, tmp_path / "retried")
    assert_same(tmp_path / "parts", tmp_path / "retried")
    assert record == read_record(tmp_path / "retried")
    assert [(each.epoch, each.micro_batch) for each in record.retries] == retries
    assert record.configuration.training.micro_batch is None, "as it was asked for"


def test_a_trial_goes_on_from_its_last_checkpoint(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23 patients: three steps per epoch. Memory runs out in the second step of epoch 2."""
    with pytest.raises(InterruptedTrialError):
        run(fold_data, tmp_path / "parts", report=interrupt_after(1))
    run(fold_data, tmp_path / "parts", micro_batch=4)
    Card(monkeypatch, 4, from_step=4)
    reported: list[int] = []
    record = run(fold_data, tmp_path / "retried", report=lambda *call: reported.append(call[0]))
    assert reported == [1, 2, 3]
    assert record.retries == (Retry(epoch=2, micro_batch=4),)
    assert_same(tmp_path / "parts", tmp_path / "retried")


def test_an_interrupted_trial_keeps_the_parts_that_fit(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch, 4)
    whole = run(fold_data, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(fold_data, tmp_path / "stopped", report=interrupt_after(1))
    card.steps, steps = 0, 2 * 6  # two epochs of three batches, each in two parts, none of them tried in vain
    record = run(fold_data, tmp_path / "stopped")
    assert card.steps == steps
    assert record.model_copy(update={"seconds": whole.seconds}) == whole


def test_after_two_retries_the_trial_fails_and_a_later_start_begins_anew(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        card = Card(patched, 1)
        with pytest.raises(MachineError, match=r"out of GPU memory\. Set a smaller training\.batch_size"):
            run(fold_data, tmp_path)
        assert card.steps == 3
        assert read_record(tmp_path) is None
    assert run(fold_data, tmp_path).retries == ()


def test_a_single_patient_cannot_be_divided(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch, 0)
    with pytest.raises(OutOfMemoryError):
        run(fold_data, tmp_path, micro_batch=1)
    assert card.steps == 1


def test_a_process_that_was_ended_for_lack_of_memory_goes_on_with_fewer_patients(
    fold_data: FoldData, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedTrialError):
        run(fold_data, tmp_path, report=interrupt_after(2))
    (tmp_path / KILLED).touch()
    assert run(fold_data, tmp_path).retries == (Retry(epoch=3, micro_batch=4),)
    assert not (tmp_path / KILLED).exists()


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate"), "out of memory"),
        (RuntimeError("unable to mmap 8192 bytes from file: Cannot allocate memory (12)"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("could not create a primitive"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of GPU memory"),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. … 35.00 GiB allowed"),
            "out of GPU m",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of GPU memory"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "out of GPU memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of GPU mem"),
    ],
)
def test_every_kind_of_shortage_is_recognised(error: Exception, what: str) -> None:
    with pytest.raises(OutOfMemoryError, match=f"^{what}"), out_of_memory_errors():
        raise error


@pytest.mark.parametrize("memory", [16e9, 141e9])
def test_trials_that_share_a_gpu_fit_on_it_with_what_their_processes_take(
    memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch is told, on a GPU that is only described: `make bench-gpu` sees it refuse on a real one."""
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", told.append)
    for gpus in (0.0, 1.0, 2.0):
        keep_to_share(gpus)
    assert told == [], "alone on its GPU, or on a CPU"
    for trials in (2, 3, 8):
        keep_to_share(round(1 / trials, 4))
        assert 0 < told[-1] < 1 / trials
        context = 1e9 if memory > 100e9 else 0.4e9
        assert trials * (told[-1] * memory + context) <= memory * 1.001


def test_other_errors_pass() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"), out_of_memory_errors():
        raise error
