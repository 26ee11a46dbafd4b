"""What MLflow gets: figures by name, and nothing that identifies patients or this machine."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support.study_on_disk import CTA, KEY, NCCT, StudyOnDisk

from rlvo.cli.status import headlines
from rlvo.cohort.pseudonym import pseudonym
from rlvo.study.status import read_state
from rlvo.tracking.after_search import log_summary_run
from rlvo.tracking.study_items import hyperparameters, over_folds, without_identities
from rlvo.training.records import Computation, Retry, Start, read_record, write_record


def test_no_id_path_user_or_password_in_database_or_artifacts(
    new_study: Callable[..., StudyOnDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.setenv(name, "planted-user")
    table = "/planted-cohort/planted-table.csv"
    on_disk = new_study(
        cohort={"table": table}, mlflow={"tracking_uri": "http://planted-user:planted-password@planted-host"}
    )
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.end(NCCT, 1, [], reason=f"patient {on_disk.patients[8]}: {table}: truncated")
    assert on_disk.mirror().close() is None
    log_summary_run(
        on_disk.config, on_disk.folder, on_disk.tracking,
        kind="ensemble", key="0" * 12, name="ensemble", params={"tie": "negative"}, metrics={"auc": 0.7},
    )  # fmt: skip

    written = list(on_disk.workdir.glob("mlflow.db*"))
    written += [path for path in on_disk.artifacts.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {
        "mlflow.db", "model.safetensors", "validation_predictions.csv", "study.json", "learning-curves.svg", "roc.svg"
    }  # fmt: skip
    content = b"\n".join(path.read_bytes() for path in written)
    assert pseudonym(on_disk.split.validation(0)[0], KEY).encode() in content
    assert b"planted" not in content.lower()  # ids, cohort path, user, host and password all hold it
    this_file = Path(__file__).name.encode()
    assert this_file not in content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the loss is not finite in epoch 3", "the loss is not finite in epoch 3"),
        ("patient 12: broken", "patient <12>: broken"),
        ("patients 12, 12-b and 120", "patients <12>, <12-b> and 120"),
        ("cannot read /data/My Patients/12.nii: truncated", "cannot read …"),
        (r"cannot read C:\scans\12.nii", "cannot read …"),
        ("cannot read ncct/12.nii", "cannot read …"),
    ],
)
def test_text_loses_ids_and_paths(text: str, expected: str) -> None:
    assert without_identities(text, ["12", "12-b"], lambda patient: f"<{patient}>") == expected


def test_parameters_are_flat_and_named() -> None:
    params = hyperparameters(CTA)
    assert (params["backbone"], params["fusion"], params["daft.bottleneck_ratio"]) == ("densenet169", "daft", 7)
    assert params["augmentation.flip"] == 0.5
    assert not any(isinstance(value, dict) for value in params.values())


def test_parameters_that_do_not_matter_are_left_out() -> None:
    """A densenet169 has no options of other backbones; images alone have none of DAFT."""
    groups = {name.partition(".")[0] for name in hyperparameters(CTA) if "." in name}
    assert groups == {"daft", "densenet", "augmentation", "pretrained"}
    assert [name for name in hyperparameters(CTA) if name.startswith("pretrained.")] == ["pretrained.use"]
    assert not any(name.startswith(("daft.", "efficientnet.", "resnet.")) for name in hyperparameters(NCCT))
    one_cycle = CTA.model_copy(update={"training": CTA.training.model_copy(update={"schedule": "one_cycle"})})
    assert hyperparameters(CTA).keys() - hyperparameters(one_cycle).keys() == {"plateau_factor", "plateau_patience"}


def test_over_folds_leaves_out_what_a_fold_does_not_have() -> None:
    summary = over_folds([{"val/auc": 0.5, "val/f1": 0.1, "lr": 1.0}, {"val/auc": 0.7, "lr": 1.0}])
    assert summary == {"val/auc_mean": pytest.approx(0.6), "val/auc_sd": pytest.approx(math.sqrt(0.02))}


def test_a_finished_trial_whose_objective_is_undefined_has_failed(on_disk: StudyOnDisk) -> None:
    for fold in range(2):
        epochs = on_disk.epochs(fold)
        on_disk.end(NCCT, fold, [{name: value for name, value in epochs[0].items() if name != "val/auc" or fold}])
    assert on_disk.mirror().close() is None
    by_fold = {run.data.params["fold"]: run for run in on_disk.runs("trial")}
    assert [by_fold[fold].info.status for fold in ("0", "1")] == ["FAILED", "FINISHED"]
    assert by_fold["0"].data.tags["rlvo.reason"] == "val/auc is undefined at the best epoch"
    (configuration,) = on_disk.runs("configuration")
    assert (configuration.info.status, configuration.data.metrics) == ("FAILED", {})
    assert "rlvo.best" not in configuration.data.tags


def test_a_trial_says_how_it_was_computed(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    folder = on_disk.trial(NCCT, 0)
    record = read_record(folder)
    assert record is not None
    ways = (
        Computation(device="cpu", threads=2, precision="float32", deterministic=True),
        Computation(device="NVIDIA A100", threads=None, precision="bfloat16", deterministic=False),
    )
    write_record(folder, record.model_copy(update={"computed": ways}))
    assert on_disk.mirror().close() is None
    tags = {run.data.params["fold"]: run.data.tags for run in on_disk.runs("trial")}
    assert tags["0"]["rlvo.computed"] == "cpu, 2 threads, float32, deterministic; NVIDIA A100, bfloat16"
    assert "rlvo.computed" not in tags["1"]  # trained by an earlier version


def test_a_trial_that_never_left_chance_says_so(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    stuck, learned = (Start(training_auc=auc, chance_limit=0.6) for auc in (0.55, 0.9))
    for fold, starts in enumerate([(stuck, stuck), (stuck, learned)]):
        record = read_record(on_disk.trial(NCCT, fold))
        assert record is not None
        write_record(on_disk.trial(NCCT, fold), record.model_copy(update={"starts": starts}))
    assert on_disk.mirror().close() is None
    tags = {run.data.params["fold"]: run.data.tags for run in on_disk.runs("trial")}
    assert [(tags[fold]["rlvo.left_chance"], tags[fold]["rlvo.starts"]) for fold in ("0", "1")] == [
        ("false", "2"),
        ("true", "2"),
    ]
    lines = headlines(read_state(on_disk.folder))
    assert "1 trial(s) never left chance, not even on their own training patients" in lines
    assert "2 trial(s) had not left chance and started again with another seed" in lines


def test_a_trial_that_ran_out_of_memory_says_so(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    folder = on_disk.trial(NCCT, 0)
    record = read_record(folder)
    assert record is not None
    write_record(
        folder, record.model_copy(update={"retries": (Retry(epoch=1, micro_batch=4), Retry(epoch=3, micro_batch=2))})
    )
    assert on_disk.mirror().close() is None
    tags = {run.data.params["fold"]: run.data.tags for run in on_disk.runs("trial")}
    assert tags["0"]["rlvo.out_of_memory"] == "epoch 1: 4 at once, epoch 3: 2 at once"
    assert "rlvo.out_of_memory" not in tags["1"]
    assert "1 trial(s) ran out of memory and went on with fewer patients at once" in headlines(
        read_state(on_disk.folder)
    )
