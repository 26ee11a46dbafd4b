"""The report's sections about the networks: validation patients, the networks that did not see them, no names."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import study_ensembles
from rlvo.explain.examples import RULE
from rlvo.report.guidelines import read_items
from rlvo.study.folder import read_config, read_declared, write_declared
from rlvo.study.openings import Openings
from rlvo.study.trials import EndedTrials
from rlvo.workflows.report import write_report
from rlvo.workflows.report_explanations import SECTIONS, explain_study, kept_explanations
from rlvo.workflows.study import OpenStudy, read_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(study: TinyStudy, trials: EndedTrials, tmp_path_factory: pytest.TempPathFactory) -> OpenStudy:
    own = study.copy(tmp_path_factory.mktemp("explained") / "work")
    specs = study_ensembles(trials.records, trials.predictions, EnsembleConfig(chance_members="count"))
    write_declared(own.folder, {**specs, "ensemble": specs["resnet18 daft"]})
    opened = OpenStudy(read_config(own.folder), own.workdir, own.inputs)
    assert kept_explanations(opened) == []
    explain_study(opened)
    return opened


def test_the_report_shows_them_at_once(opened: OpenStudy, tmp_path: Path) -> None:
    report = write_report(read_study("tiny", opened.work), tmp_path / "page.html")
    sections = {section.anchor: section for section in report.sections}
    assert {*SECTIONS} <= set(sections)
    assert any(RULE in text for text in sections["saliency"].text)
    files = {path.name for path in report.files}
    examples = pd.read_csv(report.page.with_name("page_files") / "saliency-examples.csv")
    assert len(examples) > 0
    for number in examples["example"]:
        assert {f"saliency-{number}{suffix}" for suffix in (".csv", ".svg", ".png")} <= files
    radar = pd.read_csv(report.page.with_name("page_files") / "radar.csv")
    assert radar["predictor"].tolist() == list(PAPER_PREDICTORS)
    assert (radar["through_scale"] + radar["through_shift"]).to_numpy() == pytest.approx(radar["absolute_contribution"])
    assert len(pd.read_csv(report.page.with_name("page_files") / "importance-agreement.csv")) == 3
    items = read_items().query("section in @SECTIONS")
    assert len(items) > 0
    assert {name for names in items["exhibits"] for name in names.split()} <= {path.stem for path in report.files}
    assert "not on this page yet" not in report.page.read_text()


def test_examples_are_validation_patients_whom_the_fold_misjudged_or_found(
    opened: OpenStudy, trials: EndedTrials
) -> None:
    (saliency,) = (section for section in kept_explanations(opened) if section.anchor == "saliency")
    examples = saliency.exhibits[0].table
    truth = {"true positive": (1, 1), "false positive": (0, 1), "false negative": (1, 0)}
    for row, exhibit in zip(examples.to_dict("records"), saliency.exhibits[1:], strict=True):
        assert (row["label"], row["decision"]) == truth[row["kind"]]
        assert (row["score"] >= 0) == bool(row["decision"])
        figures = exhibit.table.set_index("figure")["value"]
        asked = figures.filter(like="probability: ")
        assert len(asked) == figures["networks"] == 3
        stored = trials.predictions["probability"].to_numpy()
        assert all(np.isclose(stored, value, rtol=0, atol=0).any() for value in asked)
    assert not Openings(opened.work.path).path.exists()


def test_no_patient_and_no_place_is_named(opened: OpenStudy, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = [path for path in opened.folder.explanations.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert len(files) > 10
    for path in files:
        text = path.read_text()
        assert "PLANTED" not in text, path
        assert "planted-hospital" not in text, path
        assert str(tmp_path_factory.getbasetemp()) not in text, path


def test_another_ensemble_is_not_shown_with_them(opened: OpenStudy, study: TinyStudy, tmp_path: Path) -> None:
    own = TinyStudy(opened.work, study.cohort, study.inputs).copy(tmp_path / "work")
    other = OpenStudy(opened.config, own.workdir, opened.inputs)
    assert [section.anchor for section in kept_explanations(other)] == [*SECTIONS]
    specs = read_declared(own.folder)
    write_declared(own.folder, {**specs, "ensemble": specs["resnet18 none"]})
    assert kept_explanations(other) == []
    explain_study(other)
    importance, saliency = kept_explanations(other)
    assert importance.text == ["No network of the ensemble reads the table and has a say."]
    assert (saliency.exhibits[0].table["map_before"] == "").all()
