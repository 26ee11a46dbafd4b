"""How a trial is computed: what is asked for holds while it trains, is written down, and ends with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlvo.config.model import Configuration, DenseNetOptions, ModelConfig
from rlvo.config.training import TrainingConfig
from rlvo.models import recomputing
from rlvo.models.classifier import Classifier
from rlvo.models.compiling import Compiled
from rlvo.models.pooling import DeterministicAvgPool3d
from rlvo.training.dataset import FoldData
from rlvo.training.execution import Execution
from rlvo.training.fit import Report, fit
from rlvo.training.records import (
    BEST_WEIGHTS,
    RECORD,
    CompletionRecord,
    Computation,
    TrialIdentity,
    read_epochs,
    read_record,
)

NARROW = DenseNetOptions(init_features=4, growth_rate=4, block_config=(1, 1), stem_kernel=3)
Settings = tuple[bool, bool, bool, bool]


class InterruptedTrialError(Exception):
    pass


def configured(**training: object) -> Configuration:
    settings = {"batch_size": 2, "learning_rate": 3e-3, **training}
    model = ModelConfig(backbone="densenet121", dropout=0.1, densenet=NARROW)
    return Configuration(model=model, training=TrainingConfig.model_validate(settings))


def run(
    configuration: Configuration, data: FoldData, folder: Path, report: Report | None = None, **how: Any
) -> CompletionRecord | None:
    identity = TrialIdentity(study="t", configuration="c", fold=1, split_hash="a" * 64, data_hash="b" * 64)
    return fit(configuration, data, folder, identity, seed=1, report=report, **how)


def interrupt_after(epoch: int) -> Report:
    def report(number: int, metrics: dict[str, float]) -> None:
        if number == epoch:
            raise InterruptedTrialError

    return report


def settings() -> Settings:
    cudnn = torch.backends.cudnn
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns, cudnn.deterministic, cudnn.benchmark


def test_libraries_compute_as_asked_while_a_trial_trains_and_as_before_after_it(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker trains several: each finds what it asks for, also after one that was interrupted."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, seen = settings(), list[Settings]()

    def look(epoch: int, metrics: dict[str, float]) -> None:
        seen.append(settings())
        raise InterruptedTrialError

    for deterministic in (True, False, True):
        with pytest.raises(InterruptedTrialError):
            run(configured(epochs=1, deterministic=deterministic), fold_data, tmp_path / str(len(seen)), report=look)
        assert settings() == before
    assert seen == [(True, False, True, False), (False, False, False, True), (True, False, True, False)]


def test_a_deterministic_trial_repeats_and_differs_by_rounding_alone(fold_data: FoldData, tmp_path: Path) -> None:
    for name, deterministic in (("a", True), ("b", True), ("plain", False)):
        run(configured(epochs=1, learning_rate=1e-4, deterministic=deterministic), fold_data, tmp_path / name)
    weights, again = (load_file(tmp_path / name / BEST_WEIGHTS) for name in ("a", "b"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    (ours,), (plain,) = [[line["val/loss"] for line in read_epochs(tmp_path / name)] for name in ("a", "plain")]
    assert ours == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
def test_a_trial_of_compiled_steps_differs_by_rounding_alone_and_says_so(fold_data: FoldData, tmp_path: Path) -> None:
    configuration, records = configured(epochs=2, learning_rate=1e-4), list[CompletionRecord | None]()
    for name, compile in (("plain", "none"), ("compiled", "default")):
        records.append(run(configuration, fold_data, tmp_path / name, device="cpu", compile=compile))
    plain, compiled = records
    assert plain is not None
    assert compiled is not None
    assert [each.compiled for each in compiled.computed] == ["default"]
    assert compiled.computed[0].label.endswith("compiled")
    assert "compiled" not in (tmp_path / "plain" / RECORD).read_text()
    epochs = [read_epochs(tmp_path / name) for name in ("plain", "compiled")]
    losses, same = ([(line["train/loss"], line["val/loss"]) for line in each] for each in epochs)
    np.testing.assert_allclose(same, losses, rtol=0, atol=1e-4)
    assert same != losses, "they did run otherwise"
    weights, again = (load_file(tmp_path / name / BEST_WEIGHTS) for name in ("plain", "compiled"))
    assert list(again) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=1e-2, atol=1e-3)
    assert read_record(tmp_path / "compiled") == compiled


def test_pooling_is_replaced_if_the_trial_must_repeat() -> None:
    for deterministic in (True, False):
        configuration = configured(deterministic=deterministic)
        classifier = Classifier(configuration.model, 3)
        names = list(classifier.state_dict())
        Execution(torch.device("cpu"), configuration.training).prepare(classifier)
        assert any(isinstance(each, DeterministicAvgPool3d) for each in classifier.modules()) == deterministic
        assert list(classifier.state_dict()) == names


def test_the_record_says_how_it_was_computed(fold_data: FoldData, tmp_path: Path) -> None:
    record = run(configured(epochs=1), fold_data, tmp_path)
    here = Computation(device="cpu", threads=torch.get_num_threads(), precision="float32", deterministic=True)
    assert record.computed == (here,)
    assert here.label == f"cpu, {here.threads} threads, float32, deterministic"

    path = tmp_path / RECORD
    content = json.loads(path.read_text())
    assert content["computed"] == [json.loads(here.model_dump_json())]
    assert read_record(tmp_path) == record


def test_a_trial_that_was_continued_in_another_way_says_both(fold_data: FoldData, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for epoch in (1, 2):
            with pytest.raises(InterruptedTrialError):
                run(configured(epochs=3), fold_data, tmp_path, report=interrupt_after(epoch))
        torch.set_num_threads(2)
        record = run(configured(epochs=3), fold_data, tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(read_epochs(tmp_path)) == 3
    assert [each.threads for each in record.computed] == [1, 2]


def test_maps_that_are_computed_again_change_no_result(
    fold_data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(configured(epochs=2), fold_data, tmp_path / "plain")
    recomputed: list[object] = []
    checkpoint = recomputing.checkpoint
    monkeypatch.setattr(
        recomputing, "checkpoint", lambda *given, **options: recomputed.append(given) or checkpoint(*given, **options)
    )
    again = run(configured(epochs=2), fold_data, tmp_path / "again", activation_checkpointing=True)
    assert recomputed
    assert again.model_copy(update={"seconds": plain.seconds}) == plain


def test_compiling_is_asked_for_and_said() -> None:
    how = Execution(torch.device("cpu"), TrainingConfig(), compile="cuda_graphs")
    classifier = Classifier(configured().model, 3)
    names = list(classifier.state_dict())
    how.prepare(classifier)
    assert isinstance(classifier.backbone.features, Compiled)
    assert list(classifier.state_dict()) == names
    assert how.describe().label.endswith("deterministic, compiled with CUDA graphs")
    assert "compiled" not in json.loads(Execution(torch.device("cpu"), TrainingConfig()).describe().model_dump_json())
