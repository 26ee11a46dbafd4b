"""The report on a study: what it shows is what the commands print, it names nobody, and it opens nothing."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from support.commands import refused, run
from support.made_up_study import write_study, write_table
from support.tiny_study import TinyStudy

import rlvo
from rlvo.about import code_version
from rlvo.config.model import BackboneName
from rlvo.config.workdir import Workdir
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.report.exhibit import WRITTEN
from rlvo.report.guidelines import read_items
from rlvo.report.model_tables import ScoredModel
from rlvo.study.folder import read_config, write_declared
from rlvo.study.openings import Openings
from rlvo.workflows.evidence import Evidence
from rlvo.workflows.holdout import HoldOut, kept_evaluation, open_holdout
from rlvo.workflows.report import Report, write_report
from rlvo.workflows.report_explanations import SECTIONS
from rlvo.workflows.report_sections import specs_section
from rlvo.workflows.study import OpenStudy, read_study

pytestmark = pytest.mark.slow
SPACE = {"model.modality": ["NCCT", "CTA", "BOTH"], "model.fusion": ["none", "daft"], "model.prior": [False, True]}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A work folder with a study of 12 configurations on 3 folds; its hold-out was never opened."""
    root = tmp_path_factory.mktemp("made-up")
    write_study(root / "work", write_table(root / "planted-hospital", 90), SPACE)
    return Workdir.at(root / "work")


@pytest.fixture(scope="module")
def closed(made_up: Workdir, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report on a study without an ensemble, whose hold-out was never opened."""
    page = tmp_path_factory.mktemp("closed") / "page.html"
    return rlvo.Study("made-up", workdir=made_up.path).report(page)


@pytest.fixture(scope="module")
def evaluated(
    study: TinyStudy, specs: dict[str, EnsembleSpec], model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyStudy, HoldOut]:
    """A study whose hold-out was opened once."""
    own = study.copy(tmp_path_factory.mktemp("evaluated") / "work")
    shutil.copytree(model_folder, own.folder.model)
    write_declared(own.folder, specs)
    opened = OpenStudy(read_config(own.folder), own.workdir, own.inputs)
    return own, open_holdout(opened, specs, Openings(own.workdir.path))


@pytest.fixture(scope="module")
def opened(evaluated: tuple[TinyStudy, HoldOut], tmp_path_factory: pytest.TempPathFactory) -> Report:
    page = tmp_path_factory.mktemp("opened") / "page.html"
    return write_report(read_study("tiny", evaluated[0].workdir), page)


def table(report: Report, name: str) -> pd.DataFrame:
    """The table of an exhibit, from its file."""
    return pd.read_csv(report.page.with_name("page_files") / f"{name}.csv", float_precision="round_trip")


def exhibits(report: Report) -> Iterator[str]:
    return (each.name for section in report.sections for each in section.exhibits)


class _Page(HTMLParser):
    """Collects what a page refers to, and the names in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.refers: list[str] = []
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.refers += [value for name, value in attrs if name in ("src", "href", "srcset", "data") and value]
        self.anchors += [value for name, value in attrs if name == "id" and value]


@pytest.mark.parametrize("which", ["closed", "opened"])
def test_it_is_self_contained_and_every_figure_has_its_table(which: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(which)
    text, folder = report.page.read_text(), report.page.with_name("page_files")
    page = _Page(text)
    assert "<script" not in text
    for reference in page.refers:
        inside = reference.removeprefix("#") in page.anchors
        assert inside or reference.startswith("data:image/") or (report.page.parent / reference).is_file(), reference
    assert len(page.anchors) == len(set(page.anchors))
    names = list(exhibits(report))
    files = {path for path in folder.iterdir() if path.name != WRITTEN}
    assert {path.stem for path in files} == set(names)
    assert {path.stem for path in folder.glob("*.csv")} == set(names)
    assert {path.stem for path in folder.glob("*.svg")} == {path.stem for path in folder.glob("*.png")}
    assert set(report.files) == files


@pytest.mark.parametrize("which", ["closed", "opened"])
def test_it_names_no_patient_and_no_place(
    which: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(which)
    for path in (report.page, *report.files):
        if path.suffix != ".png":
            text = path.read_text()
            assert not re.search("PLANTED|planted-hospital", text), path
            assert str(tmp_path_factory.getbasetemp()) not in text, path


def test_the_hold_out_stays_shut(made_up: Workdir, closed: Report) -> None:
    assert not Openings(made_up.path).path.exists()
    assert "The hold-out has not been opened" in closed.page.read_text()
    standing = {each.standing for section in closed.sections for each in section.exhibits}
    assert "hold-out" not in standing


def test_without_an_opening_it_shows_the_nested_figures_of_compare(made_up: Workdir, closed: Report) -> None:
    compared = rlvo.Study("made-up", workdir=made_up.path).compare()
    way = {"selection": "best_per_modality", "weighting": "class_rates", "member_scale": "none", "estimate": "nested"}
    way |= {"table_member": "none", "linear_image": "none"}
    chosen = compared[(compared[list(way)] == pd.Series(way)).all(axis="columns")]
    own = table(closed, "table-2").set_index("model").loc["ensemble"]
    names = {"auc": "auc", "low": "auc_low", "high": "auc_high", "balanced_accuracy": "balanced_accuracy"}
    names |= {"sensitivity": "sensitivity", "specificity": "specificity"}
    for theirs, ours in names.items():
        assert own[ours] == pytest.approx(chosen[theirs].item(), nan_ok=True)


def test_its_tables_hold_what_evaluate_shows(evaluated: tuple[TinyStudy, HoldOut], opened: Report) -> None:
    study, shown = evaluated
    kept = kept_evaluation(read_study("tiny", study.workdir))
    assert kept is not None
    rows = pd.concat([table(opened, "table-2"), table(opened, "table-3")]).set_index("model")
    assert set(rows.index) == {*shown.ensembles, *shown.baselines}
    for name, found in {**shown.ensembles, **shown.baselines}.items():
        row = rows.loc[name]
        assert (row["patients"], row["positives"]) == (found.patients, found.positives)
        assert (row["auc_low"], row["auc_high"]) == pytest.approx(found.interval)
        for metric in ("auc", "balanced_accuracy", "sensitivity", "specificity", "f1", "auprc"):
            assert row[metric] == pytest.approx(getattr(found, metric), nan_ok=True), (name, metric)
        assert row["validation_auc_mean"] == pytest.approx(kept.models[name].validation["auc"].mean())
    assert "Patients of the hold-out have been opened once." in opened.page.read_text()


def test_every_guideline_item_refers_to_what_the_page_has(closed: Report, opened: Report) -> None:
    anchors = {*_Page(closed.page.read_text()).anchors, *_Page(opened.page.read_text()).anchors}
    items = read_items()
    explained = items["section"].isin(SECTIONS)  # in tests/workflows/test_report_explanations.py
    assert explained.sum() == closed.page.read_text().count("not on this page yet")
    items = items[~explained]
    assert set(items["section"]) - {""} <= anchors
    assert {name for names in items["exhibits"] for name in names.split()} <= anchors


def test_specs_are_rows_of_table_3_and_a_prior_that_saw_cta_is_marked(closed: Report) -> None:
    rows = table(closed, "table-3").set_index("model")
    assert len(rows) == 4
    assert set(rows["modalities"]) == {"NCCT, CTA, BOTH"}
    assert rows["ncct_saw_cta"].equals(rows["prior"])
    text = closed.page.read_text()
    for name, row in rows.iterrows():
        assert (f"<th>{name}*</th>" in text) == (row["prior"] == "yes")


def test_the_papers_backbones_are_table_3_and_others_table_a1() -> None:
    rng = np.random.default_rng(0)
    answers = pd.DataFrame({"label": [0, 1] * 20, "score": rng.normal(size=40), "rlvo": rng.integers(0, 2, 40)})
    models = {name: ScoredModel(name, answers, design={"backbone": name}) for name in get_args(BackboneName)}

    def shown(*names: str) -> dict[str, list[str]]:
        own = {name: models[name] for name in names}
        evidence = Evidence("nested", "", own, dict.fromkeys(own), True, "", [], [], None)
        return {each.name: each.table["model"].tolist() for each in specs_section(evidence).exhibits}

    of_paper = ["densenet169", "efficientnet-b0"]
    others = ["densenet121", "resnet18", *(f"medicalnet-resnet{depth}" for depth in (10, 18, 34, 50)), "segresnet"]
    assert shown(*models) == {"table-3": of_paper, "table-a1": others}
    assert shown("resnet18", "densenet121") == {"table-3": ["resnet18", "densenet121"]}


def test_it_names_the_code_that_wrote_it_and_that_which_trained(closed: Report) -> None:
    origin = table(closed, "origin").set_index("name")["value"]
    assert origin["this page"] == code_version()
    assert origin["trials"] == "36: code not recorded"


def test_the_search_is_optunas(made_up: Workdir, closed: Report) -> None:
    history = table(closed, "search-history")
    trials = rlvo.Study("made-up", workdir=made_up.path).trials
    means = trials.groupby("configuration")["val/auc"].mean()
    assert sorted(history["objective"]) == pytest.approx(sorted(means))
    best = table(closed, "best-configurations")
    assert best["val/auc_mean"].tolist() == pytest.approx(sorted(means, reverse=True))
    importance = table(closed, "hyperparameter-importance")
    assert set(importance["parameter"]) == set(SPACE)
    assert table(closed, "search-compute").set_index("state").loc["finished", "seconds"] == pytest.approx(36 * 60)


def test_half_done_with_failures_and_one_modality(tmp_path: Path) -> None:
    cohort = write_table(tmp_path / "planted-hospital", 60)
    space = {"model.modality": ["NCCT"], "model.fusion": ["none", "daft", "film", "concat"]}
    reason = f"PatientError: PLANTED-001 in {tmp_path}"
    write_study(tmp_path / "work", cohort, space, failed={(1, 0): reason}, missing=[(2, 1), (3, 0), (3, 1), (3, 2)])
    study = read_study("made-up", Workdir.at(tmp_path / "work"))
    report = write_report(study, tmp_path / "page.html")
    text = report.page.read_text()
    assert table(report, "table-2")["model"].tolist() == [
        "NIHSS",
        "all clinical",
        "all clinical, ridge",
        "all clinical, boosted",
        "ensemble = NCCT",
    ]
    assert table(report, "table-3")["modalities"].tolist() == ["NCCT"]
    assert "The search is not complete" in text
    assert "1 trial failed" in text
    for path in (report.page, *(each for each in report.files if each.suffix == ".csv")):
        assert "PLANTED" not in path.read_text()
        assert str(tmp_path) not in path.read_text()


def test_nothing_has_finished_and_the_log_was_altered(tmp_path: Path) -> None:
    cohort = write_table(tmp_path / "planted-hospital", 60)
    nothing = [(0, fold) for fold in range(3)]
    write_study(tmp_path / "work", cohort, {"model.modality": ["NCCT"]}, missing=nothing)
    (tmp_path / "work" / "openings.jsonl").write_text("{}\n")
    page = tmp_path / "new" / "page.html"
    shown = json.loads(run("report", "made-up", "-o", page, "--workdir", tmp_path / "work", "--json").stdout)
    text = page.read_text()
    assert Path(shown["page"]) == page
    assert {Path(each).name for each in shown["files"]} | {WRITTEN} == {*os.listdir(page.with_name("page_files"))}
    assert "There are none yet: no trial has finished." in text
    assert "Nobody can say how often the hold-out was opened" in text
    assert "has not been opened" not in text
    names = {Path(each).stem for each in shown["files"]}
    assert {"cohort-flow", "table-1", "odds-ratios", "origin", "settings"} <= names
    assert not {"table-2", "roc", "table-a2"} & names


def test_what_cannot_be_reported_is_one_line(made_up: Workdir, tmp_path: Path) -> None:
    assert "no study was started here" in refused("report", "unknown", "--workdir", made_up.path)
    (tmp_path / "page").mkdir()
    assert "cannot be written" in refused("report", "made-up", "-o", tmp_path / "page", "--workdir", made_up.path)
    fewer = write_table(tmp_path / "fewer", 60)
    arguments = ("-o", tmp_path / "x.html", "--cohort", fewer, "--workdir", made_up.path)
    assert "split" in refused("report", "made-up", *arguments)
    assert not (tmp_path / "x.html").exists()


PROBE = """<script>addEventListener("load", () => parent.postMessage([...document.querySelectorAll("body *")]
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
  .filter(each => getComputedStyle(each.parentElement).overflowX != "auto").map(each => each.tagName + each.id)
  .concat(`${innerWidth} wide, ${document.images.length} pictures`,
          [...document.images].filter(each => !each.naturalWidth).map(each => each.alt)), "*"))</script></body>"""
FRAME = """<iframe src="probe.html" width="{width}" height="900" style="border: 0"></iframe><script>
addEventListener("message", told => document.title = told.data.join("; "))</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [1400, 420])
def test_in_a_browser_nothing_is_wider_than_the_screen(width: int, closed: Report, tmp_path: Path) -> None:
    """But for pictures on a small screen, which are scrolled within a box that is not."""
    text = closed.page.read_text()
    (tmp_path / "probe.html").write_text(text.replace("</body>", PROBE))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--window-size=1500,1000", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    command = ["chromium", *flags, (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    told = re.search("<title>(.*)</title>", shown.stdout)
    assert told is not None
    assert told[1] == f"{width} wide, {text.count('<img ')} pictures"
    assert "CONSOLE" not in shown.stderr
