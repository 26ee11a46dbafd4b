"""What is added to a study's run after its search: ensembles, baselines, seals."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.study_on_disk import NCCT, StudyOnDisk

from rlvo.tracking.after_search import log_summary_run, read_seals, write_seal
from rlvo.tracking.runs import RunTree


def test_an_ensemble_is_below_its_study_beside_baselines_and_is_added_to(on_disk: StudyOnDisk, tmp_path: Path) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.mirror().close()
    (tmp_path / "roc.png").write_bytes(b"picture")

    def log(metrics: dict, key: str = "0" * 12, files: tuple[Path, ...] = (), kind: str = "ensemble") -> str:
        where = on_disk.config, on_disk.folder, on_disk.tracking
        run = {"kind": kind, "key": key, "name": f"the {kind}", "params": {"tie": "negative"}}
        return log_summary_run(*where, **run, metrics=metrics, files=files)

    first = log({"validation/auc": 0.8})
    again = log({"validation/auc": 0.8, "test/auc": 0.7}, files=(tmp_path / "roc.png",))
    other = log({}, key="1" * 12)
    assert first == again != other
    baseline = log({"val/auc_mean": 0.6}, key="baseline/nihss", kind="baseline")

    (study,) = on_disk.runs("study")
    run = on_disk.tracking.client().get_run(first)
    assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert run.data.params == {"tie": "negative"}
    assert run.data.metrics == {"validation/auc": 0.8, "test/auc": 0.7}
    assert run.info.status == "FINISHED"
    assert (on_disk.logged(run) / "roc.png").read_bytes() == b"picture"
    assert len(on_disk.history(run, "validation/auc")) == 1
    assert len(on_disk.runs("ensemble")) == 2
    (run,) = on_disk.runs("baseline")
    assert (run.info.run_id, run.info.run_name) == (baseline, "the baseline")


def test_a_run_that_is_interrupted_is_closed(on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunTree, "log_summary", interrupt)
    run = {"kind": "ensemble", "key": "0" * 12, "name": "the ensemble", "params": {}, "metrics": {}}
    with pytest.raises(KeyboardInterrupt):
        log_summary_run(on_disk.config, on_disk.folder, on_disk.tracking, **run)
    assert on_disk.statuses("ensemble") == ["KILLED"]


def test_seals_are_kept_at_the_runs_of_their_studies(new_study: Callable[..., StudyOnDisk]) -> None:
    first, second = new_study(), new_study(name="other")
    assert read_seals([first.folder, second.folder], first.tracking) == []
    write_seal(first.config, first.folder, first.tracking, seal="a" * 64, openings=1)
    write_seal(second.config, second.folder, first.tracking, seal="b" * 64, openings=1)
    write_seal(first.config, first.folder, first.tracking, seal="c" * 64, openings=2)
    assert read_seals([first.folder, second.folder], first.tracking) == ["c" * 64, "b" * 64]
    (run,) = first.runs("study")
    assert run.data.tags["rlvo.openings"] == "2"
