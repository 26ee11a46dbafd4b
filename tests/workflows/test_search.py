"""What is said before a search trains anything."""

from pathlib import Path

import pytest
from support.small_study import MakeStudy, OpenStudy

from rlvo.config.loading import load_study
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.study.openings import Openings
from rlvo.workflows.search import opened_among_training, search


def test_patients_of_an_opened_hold_out_who_are_now_trained_on_are_told(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    first, other = (open_small(make_small(f"seed-{s}", folds={"folds": 2, "seed": s})) for s in (0, 1))
    assert opened_among_training(other, small_work) is None
    split = first.split
    Openings(small_work.path).append(split.hash, first.study, {}, None, first.marks(split.test))
    assert opened_among_training(first, small_work) is None
    trained_on = len({*split.test} & {*other.split.development})
    warning = opened_among_training(other, small_work)
    assert warning is not None
    assert warning.startswith(f"{trained_on} of 19 development patients were in a hold-out that was opened")
    assert "study seed-0" in warning
    assert "PLANTED" not in warning
    (small_work.path / "openings.jsonl").write_text("{\n")
    assert "is unknown" in (opened_among_training(other, small_work) or "")


def test_an_mlflow_that_is_away_is_told_before_the_cohort_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    with pytest.raises(RlvoError, match="no such cohort table"):
        search(load_study(Path("demo")), tmp_path / "none.csv", Workdir.at(tmp_path / "work"), warn=said.append)
    (warning,) = said
    assert warning.startswith("MLflow does not answer (")
    assert warning.endswith("the search goes on, and MLflow gets everything once it answers")
