"""What a notebook starts from: the study and the model as values; the documented example is run by `test_documents`."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support.tiny_study import GRID, TinyStudy

import rlvo
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import RlvoError

HEAVY = ("torch", "ray", "mlflow", "pandas", "numpy", "sklearn", "optuna")


def test_a_finished_study_is_read_as_tables(study: TinyStudy) -> None:
    found = rlvo.Study("tiny", workdir=study.workdir.path)
    assert (found.name, found.config.folds.folds, found.status().is_complete) == ("tiny", 2, True)
    trials = found.trials
    assert len(trials) == len(trials[["configuration", "fold"]].drop_duplicates()) == 12
    assert set(trials["state"]) == {"finished"}
    assert set(trials["model.modality"]) == {"NCCT", "CTA", "BOTH"}
    assert set(trials["training.epochs"]) == {1}
    epochs = found.epochs.merge(trials, on=["configuration", "fold"], suffixes=("", "_best"))
    assert len(epochs) == 12
    assert epochs["val/auc"].tolist() == epochs["val/auc_best"].tolist()
    predictions = found.predictions
    assert set(predictions["split"]) == {"validation"}
    assert not set(predictions["patient"]) & set(study.inputs.split.test)


def test_a_study_is_planned_compared_and_named_by_a_file_too(study: TinyStudy, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(study.config.model_dump_json(exclude={"cohort": {"table"}}))
    found = rlvo.Study(tmp_path / "tiny.yaml", cohort=study.cohort, workdir=study.workdir.path)
    assert (found.plan().trials, found.plan().patients) == (12, 24)
    assert found.compare()["estimate"].value_counts().to_dict() == {"optimistic": 60, "nested": 60}


def test_what_is_at_fault_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="there is no such file"):
        rlvo.Study(tmp_path / "none.yaml")
    study = rlvo.Study("unknown", workdir=tmp_path / "work")
    calls = (study.plan, study.status, study.search, study.ensemble, study.evaluate, study.compare, study.report)
    for call in calls:
        with pytest.raises(RlvoError, match="no study was started here"):
            call()
    with pytest.raises(RlvoError, match="no registry"):
        rlvo.load_model("rlvo-ensemble", workdir=tmp_path / "work")
    assert not (tmp_path / "work" / "mlflow.db").exists()


@pytest.mark.slow
def test_a_model_answers_for_tables_in_memory_and_files(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    model = rlvo.load_model(str(package))
    table = study.raw.drop(columns=["rlvo", "smoking"]).head(2)
    assert model.check(table)[0] == "no column smoking: missing for every patient"
    answers = model.predict(table, folder=study.cohort.parent, members=True)
    assert answers["patient_id"].tolist() == table["patient_id"].tolist()
    assert set(answers["rlvo"]) <= {0, 1}
    path = study.cohort.parent / "two.csv"
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(model.predict(path, members=True), answers)

    explained = model.explain(table, answers["patient_id"][1], folder=study.cohort.parent, check=False)
    assert explained.answer["score"] == answers["score"][1]
    assert len(explained.votes) == 2
    assert set(explained.values["predictor"]) == set(PAPER_PREDICTORS)
    assert explained.explanation.saliency.maps["all"].after.shape == GRID.shape


def test_importing_rlvo_is_light() -> None:
    code = f"import sys, rlvo; print(rlvo.__version__, [name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{rlvo.__version__} []\n"
    assert set(rlvo.__all__) <= set(dir(rlvo))
    with pytest.raises(AttributeError, match="nothing"):
        rlvo.nothing  # noqa: B018
