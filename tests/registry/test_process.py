"""The registered model in a process of its own: what it answers, how it dies, and how a table's answers go on."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlvo.errors import CohortError, MachineError, RlvoError
from rlvo.registry.answering import answer_rows
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.packaging import package_model
from rlvo.registry.process import ModelProcess

pytestmark = pytest.mark.slow

WITHIN = 1e-6


@pytest.fixture(scope="module")
def package(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow model as it is registered."""
    package = tmp_path_factory.mktemp("asked") / "package"
    package_model(model_folder, package, "# A card\n")
    return package


def mark_kept(kept: Path) -> None:
    """Make kept answers recognisable."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps(line | {"answer": line["answer"] | {"score": 7.0}}) + "\n" for line in lines))


def test_it_answers_as_the_model_does_and_outlives_bad_rows(
    study: Any, predictor: EnsemblePredictor, package: Path
) -> None:
    expected = predictor.predict(study.raw.head(2), study.cohort.parent, members=True)
    rows = study.raw.head(2).drop(columns="rlvo").to_dict("records")
    with ModelProcess(package) as process:
        with pytest.raises(RlvoError, match="has none") as fault:
            process.answer(rows[0] | {"patient_id": None})
        assert (fault.value.exit_code, "\n" in str(fault.value)) == (2, False)
        with pytest.raises(MachineError, match="the model failed"):
            process.answer({"age": 70})
        for row, wanted in zip(rows, expected.to_dict("records"), strict=True):
            got = process.answer(row, folder=str(study.cohort.parent), members=True)
            assert list(got) == list(wanted)
            assert got == pytest.approx(wanted, abs=WITHIN, nan_ok=True)
        pid = process._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_death_is_one_line_that_says_how(package: Path) -> None:
    with ModelProcess(package) as process:
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match=r"died \(code -9\)") as fault:
            process.answer({"patient_id": "a"})
    assert "\n" not in str(fault.value)


def test_a_model_that_does_not_load_is_one_line(package: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the model failed") as fault, ModelProcess(tmp_path / "nothing"):
        pass
    assert "\n" not in str(fault.value)


def test_kept_answers_are_taken_again_where_nothing_changed(study: Any, package: Path, tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept.jsonl", study.cohort.parent
    table = study.raw.head(4).astype(object)
    table.loc[3, "ncct"] = "nowhere.nii.gz"
    first = answer_rows(package, table.head(2), folder, kept=kept)
    assert len(kept.read_text().splitlines()) == 2

    # Killed while the second answer was written.
    mark_kept(kept)
    kept.write_text(kept.read_text()[:-20])
    done: list[tuple[int, int]] = []
    answers = answer_rows(package, table, folder, kept=kept, progress=lambda *counts: done.append(counts))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert answers["score"][0] == 7.0
    assert answers["score"][1] == first["score"][1]
    assert answers["rlvo"].isna().tolist() == [False, False, False, True]

    # Who could not be answered for is asked about again; a changed cell, file or parameter makes a new question.
    mark_kept(kept)
    table.loc[1, "age"] = 60
    scan = folder / str(table.loc[2, "ncct"])
    os.utime(scan, ns=(scan.stat().st_atime_ns, scan.stat().st_mtime_ns + 1_000_000))
    again = answer_rows(package, table, folder, kept=kept)
    assert again["score"][0] == 7.0
    assert 7.0 not in again["score"][1:].tolist()
    mark_kept(kept)
    assert answer_rows(package, table.head(3), folder, kept=kept)["score"].tolist() == [7.0] * 3  # starts no process
    assert answer_rows(package, table.head(1), folder, kept=kept, members=True)["score"][0] == first["score"][0]


def test_decimal_commas_mean_what_they_mean_in_the_table(study: Any, package: Path) -> None:
    table, folder = study.raw.head(1), study.cohort.parent
    commas = table.astype(str)
    for name in [name for name in commas if name.endswith("_ml")]:
        commas[name] = commas[name].str.replace(".", ",")
    expected = answer_rows(package, table, folder)
    pd.testing.assert_frame_equal(answer_rows(package, commas, folder, decimal_comma=True), expected)
    assert "cbf_lt30_ml: '" in answer_rows(package, commas, folder)["warnings"][0]


def test_rows_that_cannot_be_told_apart_are_refused_before_anything_runs(study: Any, package: Path) -> None:
    with pytest.raises(CohortError, match="more than once"):
        answer_rows(package, study.raw.iloc[[0, 0]], study.cohort.parent)
    with pytest.raises(RlvoError, match="patient_id"):
        answer_rows(package, study.raw.drop(columns="patient_id"), study.cohort.parent)
