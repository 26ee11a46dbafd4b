"""What is added to a study's run after its search: ensembles, baselines, seals."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.study_on_disk import NCCT, StudyOnDisk

from rlvo.tracking.after_search import attach_text, log_summary_run, read_seals, write_seal
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


def test_a_page_is_attached_to_the_run_it_is_about_and_replaced(new_study: Callable[..., StudyOnDisk]) -> None:
    on_disk = new_study()
    where = on_disk.config, on_disk.folder, on_disk.tracking

    def attach(text: str, key: str = "0" * 12) -> str | None:
        return attach_text(*where, key=key, name="report.html", text=text)

    assert attach("<p>early</p>") is None
    run = {"kind": "ensemble", "key": "0" * 12, "name": "the ensemble", "params": {}, "metrics": {}}
    logged = log_summary_run(*where, **run, texts={"figures/nested/roc.svg": "<svg/>"})
    assert attach("<p>first</p>") == attach("<p>second</p>") == logged
    assert attach("<p>other</p>", key="1" * 12) is None
    (shown,) = on_disk.runs("ensemble")
    assert (on_disk.logged(shown) / "report.html").read_text() == "<p>second</p>"
    assert (on_disk.logged(shown) / "figures/nested/roc.svg").read_text() == "<svg/>"
    (on_disk.workdir / "mlflow.db").unlink()
    assert attach("<p>third</p>") is None
    assert not (on_disk.workdir / "mlflow.db").exists()


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
