"""What is said before a search trains anything."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.small_study import MakeStudy, OpenStudy

from rlvo.config.loading import load_study
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.search import heartbeat
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import StudyInputs
from rlvo.study.openings import Openings
from rlvo.study.state import StudyState
from rlvo.training.records import CompletionRecord, write_record
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
    assert warning.startswith("the search goes on, and MLflow gets everything once it can: MLflow does not answer (")


@pytest.mark.slow
def test_a_search_ends_if_another_took_its_study_over_while_it_stood_still(
    make_small: MakeStudy,
    open_small: OpenStudy,
    small_cohort: Path,
    small_work: Workdir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    config, folder = make_small(), StudyFolder(small_work.study("small"))
    inputs, configuration = open_small(config), config.configuration({})
    for fold in range(2):  # nothing is left to train
        identity, trial = inputs.identity(configuration.key, fold), folder.trial(configuration.key, fold)
        record = CompletionRecord(
            identity=identity, configuration=configuration, status="failed", reason="planted", epochs=0, seconds=0
        )
        trial.mkdir(parents=True)
        write_record(trial, record)

    @contextmanager
    def stand_still(inputs: StudyInputs) -> Iterator[Callable[[StudyState], None]]:
        another = small_work.path / "another"
        another.write_text('{"process": 7, "host": "elsewhere", "since": "today", "token": "another"}')
        another.replace(folder.heartbeat)
        (beating,) = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
        beating.join(60)  # it ends once it has seen the other's
        yield lambda state: pytest.fail("it goes on")

    with pytest.raises(RlvoError, match=r"stood still, and another has.*\(process 7 on elsewhere, since today\)"):
        search(config, small_cohort, small_work, show_state=stand_still)
    assert "another" in folder.heartbeat.read_text(), "it is the other's"
