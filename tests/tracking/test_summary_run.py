from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from rlvo.config.model import Configuration
from rlvo.tracking.summary_run import log_summary_run


def log(on_disk: Any, **arguments: Any) -> str:
    defaults: dict[str, Any] = {"kind": "ensemble", "key": "0" * 12, "name": "ensemble best"}
    defaults |= {"params": {"tie": "negative"}, "metrics": {}, "files": ()}
    return log_summary_run(
        on_disk.study, on_disk.folder, on_disk.tracking_uri, on_disk.artifacts, **{**defaults, **arguments}
    )


def test_an_ensemble_lies_below_its_study_and_is_added_to(on_disk: Any, tmp_path: Path) -> None:
    on_disk.end(Configuration(), 0, on_disk.epochs(0))
    on_disk.mirror().close()
    (tmp_path / "roc.png").write_bytes(b"picture")
    first = log(on_disk, metrics={"validation/auc": 0.8})
    again = log(on_disk, metrics={"validation/auc": 0.8, "test/auc": 0.7}, files=[tmp_path / "roc.png"])
    other = log(on_disk, key="1" * 12)
    assert first == again != other

    (study,) = on_disk.runs("study")
    run = MlflowClient(on_disk.tracking_uri).get_run(first)
    assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert run.data.params == {"tie": "negative"}
    assert run.data.metrics == {"validation/auc": 0.8, "test/auc": 0.7}
    assert run.info.status == "FINISHED"
    assert (on_disk.artifacts / first / "artifacts/roc.png").read_bytes() == b"picture"
    history = MlflowClient(on_disk.tracking_uri).get_metric_history(first, "validation/auc")
    assert len(history) == 1
    assert len(on_disk.runs("ensemble")) == 2


def test_a_baseline_lies_beside_the_ensembles(on_disk: Any) -> None:
    on_disk.end(Configuration(), 0, on_disk.epochs(0))
    on_disk.mirror().close()
    made = log(on_disk, kind="baseline", key="baseline/nihss", name="NIHSS", metrics={"val/auc_mean": 0.6})
    (run,) = on_disk.runs("baseline")
    assert run.info.run_id == made
    assert run.info.run_name == "NIHSS"
